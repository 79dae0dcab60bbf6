//! Bytes as a source of decisions, for checks that build what they check.

/// What is left of the bytes. When they are used up, all numbers are 0 and all texts empty.
pub struct Feed<'a>(pub &'a [u8]);

impl<'a> Feed<'a> {
    /// The next bytes, as many as there are.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// A number, small ones and those at the ends more often than others.
    pub fn number(&mut self) -> i64 {
        match self.byte() {
            255 => i64::MAX,
            254 => i64::MIN,
            253 => i64::MAX - 1,
            252 => -1,
            251 => i64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            small => small.into(),
        }
    }

    /// Up to 255 bytes.
    pub fn bytes(&mut self) -> &'a [u8] {
        let count = self.byte().into();
        self.take(count)
    }

    /// Up to 255 bytes of text.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
