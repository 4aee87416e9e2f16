//! Our own records, taken apart where they are written just as this version writes them.
//!
//! A million are read at a start, and a general reader of JSON costs several times what is in them.
//! Every step says `None` of anything else, which is then read as JSON: what is accepted, and what is
//! refused in which words, is up to that.

use std::str::FromStr;

use crate::event::plain_run;

/// What is left to read of a record.
pub(crate) struct Scan<'a>(&'a str);

impl<'a> Scan<'a> {
    pub(crate) const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// What must come next, in ASCII. Its length is a constant, so that it is compared without a call.
    #[inline]
    pub(crate) fn skip<const N: usize>(&mut self, literal: &[u8; N]) -> Option<&mut Self> {
        if self.0.as_bytes().first_chunk() != Some(literal) {
            return None;
        }
        self.0 = self.0.get(N..)?;
        Some(self)
    }

    /// What may come next, and whether it did.
    #[inline]
    pub(crate) fn skips<const N: usize>(&mut self, literal: &[u8; N]) -> bool {
        self.skip(literal).is_some()
    }

    /// A text up to its closing quote, where it is as it reads: nothing in it is escaped.
    #[inline]
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let (text, rest) = self.0.split_at(plain_run(self.0.as_bytes()));
        if rest.as_bytes().first() != Some(&b'"') {
            return None;
        }
        self.0 = rest.get(1..)?;
        Some(text)
    }

    /// A whole number.
    #[inline]
    pub(crate) fn number<N: FromStr>(&mut self) -> Option<N> {
        let end = self.0.bytes().position(|byte| !byte.is_ascii_digit())?;
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        (digits.len() == 1 || digits.as_bytes().first() != Some(&b'0')).then(|| digits.parse().ok()).flatten()
    }

    /// A truth value.
    pub(crate) fn flag(&mut self) -> Option<bool> {
        let flag = self.skips(b"true");
        (flag || self.skips(b"false")).then_some(flag)
    }

    /// The last of it.
    pub(crate) fn end(self, literal: &str) -> Option<()> {
        (self.0 == literal).then_some(())
    }
}
