//! JSON written straight to its text: what is written per row needs no tree and no escaping.

use wide::u8x16;

/// A JSON object being written; its members come in the order of the calls.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    json: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Opens an object at the end of a text.
    pub(crate) fn open(json: &'a mut Vec<u8>) -> Self {
        json.push(b'{');
        Self { json, empty: true }
    }

    /// A member whose value the caller writes. Its name, and that of every member, is one of ours or of
    /// an attribute, which has nothing to escape.
    pub(crate) fn value(&mut self, name: &str) -> &mut Vec<u8> {
        debug_assert!(is_plain(name.as_bytes()), "a name to escape: {name}");
        if !self.empty {
            self.json.push(b',');
        }
        self.empty = false;
        self.json.push(b'"');
        self.json.extend_from_slice(name.as_bytes());
        self.json.extend_from_slice(b"\":");
        self.json
    }

    /// A text under any name.
    pub(crate) fn named(&mut self, name: &str, value: &str) -> &mut Self {
        if !self.empty {
            self.json.push(b',');
        }
        self.empty = false;
        put_text(self.json, name);
        self.json.push(b':');
        put_text(self.json, value);
        self
    }

    /// A text.
    pub(crate) fn text(&mut self, name: &str, value: &str) -> &mut Self {
        put_text(self.value(name), value);
        self
    }

    /// A truth value.
    pub(crate) fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.value(name).extend_from_slice(if value { b"true" } else { b"false" });
        self
    }

    /// A number.
    pub(crate) fn number(&mut self, name: &str, value: i64) -> &mut Self {
        put_number(self.value(name), value);
        self
    }

    /// Closes it.
    pub(crate) fn close(self) {
        self.json.push(b'}');
    }
}

/// A JSON number.
pub(crate) fn put_number(json: &mut Vec<u8>, value: i64) {
    serde_json::to_writer(json, &value).expect("a vector takes everything");
}

/// A JSON string. Nearly no text has anything to escape, and to see that is ten times as fast as to
/// escape it byte by byte.
pub(crate) fn put_text(json: &mut Vec<u8>, text: &str) {
    if is_plain(text.as_bytes()) {
        json.reserve(text.len() + 2);
        json.push(b'"');
        json.extend_from_slice(text.as_bytes());
        json.push(b'"');
    } else {
        serde_json::to_writer(json, text).expect("a vector takes everything");
    }
}

/// Whether a text within quotes stands for itself.
fn is_plain(text: &[u8]) -> bool {
    plain_run(text) == text.len()
}

/// How many bytes within a string stand for themselves before the first that does not: a quote, a
/// backslash, or one below a space.
#[inline]
pub(crate) fn plain_run(bytes: &[u8]) -> usize {
    run(bytes, special_bytes)
}

/// The same, before the first that is no ASCII as well.
#[inline]
pub(crate) fn plain_ascii_run(bytes: &[u8]) -> usize {
    run(bytes, |word| special_bytes(word) | u8x16::new(word).to_bitmask())
}

/// How many bytes there are before the first that is special, which is told of a word, with its first byte
/// in the lowest bit.
#[inline]
fn run(bytes: &[u8], special: impl Fn([u8; WORD]) -> u32) -> usize {
    let (words, rest) = bytes.as_chunks();
    for (place, word) in words.iter().enumerate() {
        let special = special(*word);
        // Said this way the processor goes on before it knows how long the run is, which is a third of the time.
        if special != 0 {
            return WORD * place + special.trailing_zeros() as usize;
        }
    }
    let mut word = [0; WORD];
    word[..rest.len()].copy_from_slice(rest);
    WORD * words.len() + (special(word) | 1 << rest.len()).trailing_zeros() as usize
}

/// So many bytes are looked at together.
pub(super) const WORD: usize = 16;

/// Which bytes of a word do not stand for themselves within a string, the first in the lowest bit.
#[inline]
pub(super) fn special_bytes(bytes: [u8; WORD]) -> u32 {
    let bytes = u8x16::new(bytes);
    let small = bytes.min(u8x16::splat(0x1f)).simd_eq(bytes);
    let special = bytes.simd_eq(u8x16::splat(b'"')) | bytes.simd_eq(u8x16::splat(b'\\')) | small;
    special.to_bitmask()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Both runs end before the first byte that does not count, wherever in a word it is.
    #[test]
    fn a_run_ends_where_a_byte_does_not_stand_for_itself() {
        for byte in 0..=u8::MAX {
            for place in 0..40 {
                let mut text = [b' '; 40];
                text[place] = byte;
                let plain = byte >= b' ' && !br#""\"#.contains(&byte);
                let run = |counts: bool| if counts { text.len() } else { place };
                assert_eq!(plain_run(&text), run(plain), "{byte} at {place}");
                assert_eq!(plain_ascii_run(&text), run(plain && byte.is_ascii()), "{byte} at {place}");
            }
        }
    }

    proptest! {
        /// What is written reads back as it was, in the order it was written.
        #[test]
        fn an_object_is_what_was_put_in(texts in prop::collection::vec(".*", 0..4), number: i64, flag: bool) {
            let mut json = Vec::new();
            let mut object = Object::open(&mut json);
            object.number("number", number).flag("flag", flag);
            for (place, text) in texts.iter().enumerate() {
                object.named(&format!("{place}{text}"), text);
            }
            object.close();
            let read: Value = serde_json::from_slice(&json).unwrap();
            let mut expected = json!({ "number": number, "flag": flag });
            for (place, text) in texts.iter().enumerate() {
                expected[format!("{place}{text}")] = text.as_str().into();
            }
            prop_assert_eq!(serde_json::to_string(&read).unwrap(), serde_json::to_string(&expected).unwrap());
            prop_assert_eq!(String::from_utf8(json).unwrap(), expected.to_string(), "and as serde_json writes it");
        }
    }

    #[test]
    fn a_run_is_plain_up_to_the_first_byte_that_is_not() {
        for byte in 0..=u8::MAX {
            for place in 0..20 {
                for around in [b'a', b' ', 0x7f, 0x80, 0xff] {
                    let mut bytes = [around; 20];
                    bytes[place] = byte;
                    let expected = if matches!(byte, b'"' | b'\\' | 0..=0x1f) { place } else { 20 };
                    assert_eq!(plain_run(&bytes), expected, "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn an_empty_object_has_no_comma() {
        let mut json = Vec::new();
        Object::open(&mut json).close();
        assert_eq!(json, b"{}");
    }
}
