//! Where rows stand that are on disk only: a few bytes of memory each, for a long outage of quiet logs has millions.
//!
//! A row is written down as varints, against the row before it: how many records it has beyond the first, the bytes of its
//! text, and where it begins behind the end of the row before it, in the same segment or in a later one.

/// No piece has more rows: to find one in it means to read those before it.
const MAX_ROWS: u32 = 256;
/// The most that one row takes: five varints.
const MAX_ROW_BYTES: usize = 10 + 4 * 5;

/// A row in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) seq_to: i64,
    /// Of its text.
    pub(super) bytes: u32,
    pub(super) segment: u32,
    pub(super) offset: u32,
    /// Of its record.
    pub(super) size: u32,
}

/// Rows of one log one after the other, without holes between their numbers.
#[derive(Debug)]
pub(super) struct Packed {
    code: Vec<u8>,
    /// Bytes of it whose rows are taken away.
    gone: usize,
    rows: u32,
    /// A record's bytes beside its text: the same for all rows of a log.
    frame: u32,
    /// Where the row before the first one ended.
    begin: Spot,
    /// Where the last one ends.
    end: Spot,
}

#[derive(Clone, Copy, Debug)]
struct Spot {
    segment: u32,
    offset: u32,
}

impl Packed {
    /// One row.
    pub(super) fn new(row: &Row) -> Self {
        let begin = Spot { segment: row.segment, offset: row.offset };
        let frame = row.size.saturating_sub(row.bytes);
        let mut packed = Self { code: Vec::new(), gone: 0, rows: 0, frame, begin, end: begin };
        packed.put(row);
        packed
    }

    /// Adds the row that follows, if there is room for it.
    pub(super) fn add(&mut self, row: &Row) -> bool {
        let behind = (row.segment, row.offset) >= (self.end.segment, self.end.offset);
        let fits = self.rows < MAX_ROWS && behind && row.size.checked_sub(row.bytes) == Some(self.frame);
        if fits {
            self.put(row);
        }
        fits
    }

    fn put(&mut self, row: &Row) {
        if self.code.capacity() - self.code.len() < MAX_ROW_BYTES {
            // Tight: many logs have a piece that is not full.
            self.code.reserve_exact(MAX_ROW_BYTES.max(self.code.len() / 4));
        }
        varint(&mut self.code, row.seq_to.abs_diff(row.seq));
        varint(&mut self.code, row.bytes.into());
        match row.segment - self.end.segment {
            0 => varint(&mut self.code, u64::from(row.offset - self.end.offset) << 1),
            later => {
                varint(&mut self.code, u64::from(later) << 1 | 1);
                varint(&mut self.code, row.offset.into());
            }
        }
        self.rows += 1;
        self.end = Spot { segment: row.segment, offset: row.offset.saturating_add(row.size) };
        if self.rows == MAX_ROWS {
            self.code.shrink_to_fit();
        }
    }

    /// Its rows, of which the first has this number.
    pub(super) fn rows(&self, seq: i64) -> Rows<'_> {
        Rows { code: &self.code[self.gone..], left: self.rows, frame: self.frame, seq, spot: self.begin }
    }

    /// Takes the first row away, which has this number.
    pub(super) fn pop(&mut self, seq: i64) -> Option<Row> {
        let mut rows = self.rows(seq);
        let row = rows.next()?;
        (self.gone, self.begin) = (self.code.len() - rows.code.len(), rows.spot);
        self.rows -= 1;
        Some(row)
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.code.capacity()
    }
}

/// Rows as they are read.
pub(super) struct Rows<'a> {
    code: &'a [u8],
    left: u32,
    frame: u32,
    seq: i64,
    spot: Spot,
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        self.left = self.left.checked_sub(1)?;
        let seq = self.seq;
        let seq_to = seq.saturating_add_unsigned(self.read());
        let bytes = narrow(self.read());
        let place = self.read();
        let (segment, offset) = match place & 1 {
            0 => (self.spot.segment, self.spot.offset.saturating_add(narrow(place >> 1))),
            _ => (self.spot.segment.saturating_add(narrow(place >> 1)), narrow(self.read())),
        };
        let size = bytes.saturating_add(self.frame);
        self.seq = seq_to.saturating_add(1);
        self.spot = Spot { segment, offset: offset.saturating_add(size) };
        Some(Row { seq, seq_to, bytes, segment, offset, size })
    }
}

impl Rows<'_> {
    fn read(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some((byte, rest)) = self.code.split_first() else { break };
            self.code = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
}

/// Of what was written from 32 bits.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_are_read_as_they_were_written_down_and_taken_away_from_the_front(
            steps in proptest::collection::vec((0..200i64, 0..70_000u32, 0..3u32, 0..20_000_000u32), 1..300),
            taken in 0..300usize,
        ) {
            const FRAME: u32 = 99;
            let (mut seq, mut segment, mut end) = (7, 3, 0);
            let rows: Vec<Row> = steps.into_iter().map(|(more, bytes, later, distance)| {
                let offset = if later == 0 { end + distance / 400 } else { distance };
                let row = Row { seq, seq_to: seq + more, bytes, segment: segment + later, offset, size: bytes + FRAME };
                (seq, segment, end) = (seq + more + 1, segment + later, offset + row.size);
                row
            }).collect();
            let mut packed = Packed::new(&rows[0]);
            let fit = 1 + rows[1..].iter().take_while(|row| packed.add(row)).count();
            prop_assert_eq!(fit, rows.len().min(MAX_ROWS as usize));
            prop_assert_eq!(packed.rows(7).collect::<Vec<_>>(), &rows[..fit]);
            let taken = taken.min(fit);
            for row in &rows[..taken] {
                prop_assert_eq!(packed.pop(row.seq), Some(*row));
            }
            let next = rows[..fit].get(taken).map_or(0, |row| row.seq);
            prop_assert_eq!(packed.rows(next).collect::<Vec<_>>(), &rows[taken..fit]);
            prop_assert!(packed.memory_bytes() >= packed.code.len());
            // Tried: a row of another form, and one that stands before the last.
            let other = Row { size: 1, ..rows[0] };
            prop_assert!(!packed.add(&other));
            prop_assert!(fit == 1 || !packed.add(&rows[0]));
        }
    }
}
