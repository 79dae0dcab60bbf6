//! Where Linux systems keep what programs need. What is not there is passed over.

/// Names and addresses, users, certificates, time zones; devices that hold nothing; figures of the machine. Nothing of
/// any process: `/proc/<pid>` shows neighbours.
pub(super) const READ: [&str; 36] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/nsswitch.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/passwd",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/os-release",
    "/etc/mime.types",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls",
    "/etc/pki/ca-trust",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/dev/random",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/stat",
    "/proc/uptime",
    "/proc/version",
    "/proc/sys",
    "/sys/devices/system/cpu",
    "/sys/kernel/mm/transparent_hugepage",
];

/// Devices that keep nothing.
pub(super) const WRITE: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/full"];

/// Libraries, for programs that have some.
pub(super) const LIBRARIES: [&str; 6] = ["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// Programs and all that is installed with them.
pub(super) const PROGRAMS: [&str; 9] =
    ["/bin", "/sbin", "/usr", "/opt", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"];

/// Settings that common tools look for; none of them holds a secret.
pub(super) const TOOL_SETTINGS: [&str; 10] = [
    "/etc/alternatives",
    "/etc/bash.bashrc",
    "/etc/profile",
    "/etc/inputrc",
    "/etc/terminfo",
    "/etc/locale.alias",
    "/etc/perl",
    "/etc/python3",
    "/etc/magic",
    "/etc/ssh/ssh_config",
];
