#!/usr/bin/perl
# The first and only program of a machine for aarch64: installs the filter in a child for each case, makes the call, and compares its
# error with the table's, and with that of the same call without a filter. See sandbox.sh.
use strict;
use warnings;
no warnings 'portable';
use POSIX ();

$| = 1;
my ($EPERM, $ENOSYS) = (1, 38);
my (%number, @failed);
my ($tried, $told_apart) = (0, 0);

sub lines { my ($path) = @_; open(my $file, '<', $path) or die "$path: $!"; chomp(my @lines = <$file>); return @lines }
sub off { syscall($number{sync}); syscall($number{reboot}, 0xfee1dead, 672274793, 0x4321fedc, 0); sleep 60; exit 1 }
$SIG{__DIE__} = sub { print "error: $_[0]\n"; off() if $$ == 1 };
($number{(split)[0]}) = (split)[1] for lines('/numbers');

# One call in a child, for which nothing that it does matters to others: its error, 0, or how the child ended.
sub outcome {
  my ($programs, $number, @arguments) = @_;
  my $pid = fork // die "fork: $!";
  if (!$pid) {
    alarm 5;
    install($_) for @$programs;
    $! = 0;
    my @six = (@arguments, (0) x (6 - @arguments));
    my $answer = syscall($number, map { $_ >= 2**63 ? unpack('q', pack('Q', $_)) : $_ + 0 } @six);
    POSIX::_exit($answer == -1 ? $! + 0 : 0);
  }
  waitpid($pid, 0);
  return $? & 127 ? 'signal ' . ($? & 127) : $? >> 8;
}

sub install {
  my ($program) = @_;
  my $fprog = pack('S x6 P', length($program) / 8, $program);
  syscall($number{prctl}, 38, 1, 0, 0, 0) == 0 or POSIX::_exit(250);      # PR_SET_NO_NEW_PRIVS
  syscall($number{seccomp}, 1, 0, $fprog) == 0 or POSIX::_exit(251);      # SECCOMP_SET_MODE_FILTER
}

sub expect {
  my ($what, $got, $wanted) = @_;
  $tried++;
  push @failed, "$what ended with $got instead of $wanted" if $got ne $wanted;
}

sub try_all {
  my ($udp) = @_;
  my (@programs, %listed);
  for (lines("/filter.$udp")) {
    my ($kind, @rest) = split;
    if ($kind eq 'program') { push @programs, pack('H*', $rest[0]); next }
    my ($name, undef, $errno, @arguments) = @rest;
    my $number = $number{$name};
    if (!defined $number) { print "tendril: $name is not among the numbers of this machine's headers\n"; $number = $rest[1] }
    $listed{$number} = 1;
    my ($plain, $filtered) = (outcome([], $number, @arguments), outcome(\@programs, $number, @arguments));
    my $what = "$name(@arguments) with $udp";
    # What is refused ends with the table's error, whatever the kernel says; what is let through with none of the filter's. (Not always as
    # without a filter: a thread that is made without a stack ends now so and now so.)
    my $is_let_through = $filtered eq $plain || ($filtered ne $EPERM && $filtered ne $ENOSYS);
    expect($what, $filtered, $errno || ($is_let_through ? $filtered : $plain));
    $told_apart++ if $errno && $plain ne $filtered;
  }
  # All that is not in the table goes through: with arguments that no call takes, so that it does nothing.
  my %skipped = map { ($number{$_} => 1) } qw(exit exit_group rt_sigreturn);
  for my $number (grep { !$listed{$_} && !$skipped{$_} } 0 .. 479) {
    my @odd = (-1) x 6;
    expect("number $number with $udp", outcome(\@programs, $number, @odd), outcome([], $number, @odd));
  }
  thirty_two_bits(@programs) if $udp eq 'udp';
}

# A program for 32-bit ARM that ends itself with 7: its calls have other numbers, so the filter has to refuse all of them.
sub thirty_two_bits {
  my @programs = @_;
  my $code = pack('V*', 0xe3a00007, 0xe3a07001, 0xef000000, 0xe7f000f0); # r0 = 7, r7 = exit, svc 0, udf
  my $head = pack('a16 v v V V V V V v v v v v v', "\x7fELF\1\1\1", 2, 40, 1, 0x10054, 52, 0, 0x5000400, 52, 32, 1, 0, 0, 0);
  my $load = pack('V8', 1, 0, 0x10000, 0x10000, 84 + length $code, 84 + length $code, 5, 0x1000);
  open(my $file, '>', '/tmp/arm') or die "/tmp/arm: $!";
  print $file $head, $load, $code;
  close $file;
  chmod 0755, '/tmp/arm';
  my $run = sub {
    my $pid = fork // die "fork: $!";
    if (!$pid) { alarm 5; install($_) for @_; { exec '/tmp/arm' } POSIX::_exit(252) }
    waitpid($pid, 0);
    return $? & 127 ? 'signal ' . ($? & 127) : $? >> 8;
  };
  expect('a 32-bit program without a filter', $run->(), 7);
  expect('a 32-bit program under the filter', $run->(@programs), 'signal 4');
}

my ($release, $machine) = (POSIX::uname())[2, 4];
print "tendril: Linux $release on $machine\n";
try_all('udp');
try_all('no-udp');
print "error: $_\n" for @failed;
print "tendril: $tried calls tried, $told_apart of the refused ones end otherwise without the filter\n";
print "tendril: all as the table says\n" if !@failed && $tried > 1000 && $told_apart > 100;
off();
