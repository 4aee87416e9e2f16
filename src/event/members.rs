//! A JSON object taken apart: each member's name, and its value as it is written.
//!
//! The whole text is checked against RFC 8259, and nothing is decoded: a million events are looked
//! at, and of most of them only a few attributes are of interest.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::json::{WORD, special_bytes};

/// Deeper values are refused, as `serde_json` does.
const DEPTH: usize = 128;

/// Takes an object apart: gives the name of each member and its value to `each`. The error is the byte
/// at which it is no JSON object any more; what was given out before is void then.
pub(crate) fn members<'a>(
    text: &'a str,
    mut each: impl FnMut(Cow<'a, str>, MemberValue<'a>),
) -> Result<(), usize> {
    descend(text, |name, scan| scan.member().map(|value| each(name, value)))
}

/// Takes an object apart and those in it in one go: `each` is given the name of each member and where
/// its value begins, and takes it with [`Scan::member`] or [`Scan::object`]; `None` where that gave it.
pub(crate) fn descend<'a>(
    text: &'a str,
    mut each: impl FnMut(Cow<'a, str>, &mut Scan<'a>) -> Option<()>,
) -> Result<(), usize> {
    let mut scan = Scan { text, special: special(text.as_bytes()), at: 0 };
    scan.members(&mut each).ok_or(scan.at)?;
    scan.space();
    if scan.at == text.len() { Ok(()) } else { Err(scan.at) }
}

/// The value of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberValue<'a> {
    /// As it is written.
    json: &'a str,
    /// It is a string of which every byte stands for itself.
    plain: bool,
}

impl<'a> MemberValue<'a> {
    /// As it is written.
    pub(crate) const fn json(self) -> &'a str {
        self.json
    }

    /// A JSON string, decoded; `None` where the value is something else.
    #[inline]
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        if self.plain {
            return self.json.get(1..self.json.len() - 1).map(Cow::Borrowed);
        }
        // Not to be found out by an error: of each event one member is a number.
        self.json.starts_with('"').then(|| serde_json::from_str(self.json).ok().map(Cow::Owned)).flatten()
    }
}

/// Bits by byte, 64 each; in place for what is no longer than nearly every event, 1,536 bytes.
type Special = SmallVec<[u64; 24]>;

/// For 64 bytes each, which of them do not stand for themselves within a string; one behind the last
/// is among them. All are found first: nearly every string is short, and there are many.
fn special(bytes: &[u8]) -> Special {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let mut last = [0; 64];
    last[..rest.len()].copy_from_slice(rest);
    let mut special = SmallVec::with_capacity(blocks.len() + 1);
    special.extend(blocks.iter().chain([&last]).map(|block| {
        let (words, _) = block.as_chunks();
        words.iter().rev().fold(0, |found, word| found << WORD | u64::from(special_bytes(*word)))
    }));
    special
}

/// A text being read.
pub(crate) struct Scan<'a> {
    text: &'a str,
    special: Special,
    at: usize,
}

impl<'a> Scan<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// This byte, after any space.
    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.space();
        self.take(byte)
    }

    #[inline]
    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// The value that begins here; `None` where it is none.
    #[inline]
    pub(crate) fn member(&mut self) -> Option<MemberValue<'a>> {
        let start = self.at;
        let plain = if self.peek() == Some(b'"') {
            self.string()?
        } else {
            self.value(1)?;
            false
        };
        Some(MemberValue { json: self.since(start)?, plain })
    }

    /// Whether the value that begins here is `null`, or none.
    pub(crate) fn is_null(&self) -> bool {
        self.peek() == Some(b'n')
    }

    /// The object that begins here, member by member as [`descend`] gives them: `Some(true)`. Any other
    /// value is taken as it is: `Some(false)`. `None` where it is none.
    pub(crate) fn object(
        &mut self,
        each: &mut impl FnMut(Cow<'a, str>, &mut Self) -> Option<()>,
    ) -> Option<bool> {
        if self.peek() == Some(b'{') {
            self.members(each)?;
            return Some(true);
        }
        self.member().map(|_| false)
    }

    fn members(&mut self, each: &mut impl FnMut(Cow<'a, str>, &mut Self) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        self.space();
        if self.take(b'}').is_some() {
            return Some(());
        }
        loop {
            self.space();
            let start = self.at;
            let plain = self.string()?;
            let name = MemberValue { json: self.since(start)?, plain }.text()?;
            self.expect(b':')?;
            self.space();
            each(name, self)?;
            self.space();
            if self.take(b',').is_none() {
                return self.take(b'}');
            }
        }
    }

    fn since(&self, start: usize) -> Option<&'a str> {
        self.text.get(start..self.at)
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        self.space();
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' if depth < DEPTH => {
                self.at += 1;
                self.list(b'}', |scan| {
                    scan.space();
                    scan.string()?;
                    scan.expect(b':')?;
                    scan.value(depth + 1)
                })
            }
            b'[' if depth < DEPTH => {
                self.at += 1;
                self.list(b']', |scan| scan.value(depth + 1))
            }
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => None,
        }
    }

    /// What is between brackets, the first of which is taken already.
    fn list(&mut self, end: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.space();
        if self.take(end).is_some() {
            return Some(());
        }
        loop {
            item(self)?;
            self.space();
            if self.take(b',').is_none() {
                return self.take(end);
            }
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.text.as_bytes()[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    /// Whether every byte of it stands for itself.
    #[inline]
    fn string(&mut self) -> Option<bool> {
        self.take(b'"')?;
        let mut plain = true;
        loop {
            self.at = self.next_special();
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(plain);
                }
                b'\\' => {
                    self.at += 1;
                    plain = false;
                    self.escape()?;
                }
                _ => return None,
            }
        }
    }

    /// Where the next byte is that does not stand for itself within a string, from this one on.
    #[inline]
    fn next_special(&self) -> usize {
        let (mut block, passed) = (self.at / 64, self.at % 64);
        let mut found = self.special[block] >> passed << passed;
        while found == 0 {
            block += 1;
            found = self.special[block];
        }
        block * 64 + found.trailing_zeros() as usize
    }

    fn escape(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => {
                let unit = self.unit()?;
                match unit {
                    // A lone half of a surrogate pair is no character.
                    0xdc00..=0xdfff => return None,
                    0xd800..=0xdbff => {
                        self.take(b'\\')?;
                        if !(0xdc00..=0xdfff).contains(&self.unit()?) {
                            return None;
                        }
                    }
                    _ => {}
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// `u` and four hex digits.
    fn unit(&mut self) -> Option<u16> {
        self.take(b'u')?;
        let hex = self.text.as_bytes().get(self.at..self.at + 4)?;
        let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
        self.at += 4;
        u16::from_str_radix(hex, 16).ok()
    }

    fn number(&mut self) -> Option<()> {
        let _sign = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn taken_apart(text: &str) -> Result<Vec<(Cow<'_, str>, MemberValue<'_>)>, usize> {
        let mut found = Vec::new();
        members(text, |name, value| found.push((name, value)))?;
        Ok(found)
    }

    fn check(text: &str) {
        let ours = taken_apart(text);
        // Numbers too large for a float are JSON all the same.
        let theirs = serde_json::from_str::<Map<String, Value>>(text);
        let large = theirs.as_ref().is_err_and(|e| e.to_string().contains("out of range"));
        assert_eq!(ours.is_ok(), theirs.is_ok() || large, "{text}: {theirs:?}");
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            let mut read = Map::new();
            for (name, value) in ours {
                let json: Value = serde_json::from_str(value.json()).unwrap();
                assert_eq!(value.text().as_deref(), json.as_str(), "{text}");
                read.insert(name.into_owned(), json);
            }
            assert_eq!(read, theirs, "{text}");
        }
    }

    #[test]
    fn objects_are_taken_apart_as_another_parser_does() {
        for text in [
            "{}",
            " {\"a\" : 1 , \"b\":[1,2,{\"c\":null}] }\n",
            r#"{"a":"\u00e9\n\"\\","A":true}"#,
            r#"{"a":"\ud83d\ude00"}"#,
            r#"{"a":"\ud83d"}"#,
            r#"{"a":"\ude00"}"#,
            r#"{"a":-0.5e+10,"b":01}"#,
            r#"{"a":-}"#,
            r#"{"a":1.}"#,
            r#"{"a":1e400}"#,
            r#"{"a":tru}"#,
            r#"{"a":1,}"#,
            r#"{"a" 1}"#,
            r#"{"a":1}}"#,
            r#"{"a":"b"#,
            "{\"a\":\"\t\"}",
            "[]",
            "",
            "null",
            "{a:1}",
            r#"{"a":[1,]}"#,
            r#"{"a":{"b":1,}}"#,
        ] {
            check(text);
        }
        assert_eq!(taken_apart(r#"{"id":"1",}"#), Err(10), "where it goes wrong");
    }

    /// Bytes are looked at sixteen and sixty-four at a time.
    #[test]
    fn a_string_may_end_anywhere() {
        for length in 0..200 {
            let text = "x".repeat(length);
            check(&format!(r#"{{"{text}":"{text}"}}"#));
            for odd in [r"\n", r"\\", r#"\""#, r"\x", "\t", "\"", "é"] {
                check(&format!(r#"{{"a":"{text}{odd}","b":1}}"#));
                check(&format!(r#"{{"a":"{text}{odd}{text}","{odd}":[""]}}"#));
            }
            check(&format!(r#"{{"a":"{text}"#));
        }
    }

    #[test]
    fn objects_within_are_taken_apart_on_the_way() {
        let inner = |text: &'static str| {
            let mut found = Vec::new();
            let whole = descend(text, |name, scan| {
                let object = scan.object(&mut |inner, scan| {
                    let value = scan.member()?;
                    found.push(format!("{name}.{inner}={}", value.json()));
                    Some(())
                })?;
                found.push(format!("{name} {object}"));
                Some(())
            });
            (found, whole)
        };
        let (found, whole) = inner(r#"{"a":{"b":1,"c":{"d":2}},"e":[3],"f":{ }}"#);
        assert_eq!(whole, Ok(()));
        assert_eq!(found, ["a.b=1", "a.c={\"d\":2}", "a true", "e false", "f true"]);
        for (text, at) in [(r#"{"a":{"b":1}"#, 12), (r#"{"a":{"b":1,}}"#, 12), (r#"{"a":{"b":x}}"#, 10)] {
            assert_eq!(inner(text).1, Err(at), "{text}");
        }
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(taken_apart(&nested(100)).is_ok());
        assert!(taken_apart(&nested(100_000)).is_err());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_object_is_taken_apart(
            object in prop::collection::btree_map(".{0,6}", value(), 0..6),
            pretty: bool,
            cut in any::<prop::sample::Index>(),
            other in any::<char>(),
        ) {
            let object = Value::Object(object.into_iter().collect());
            let text = if pretty { format!("{object:#}") } else { object.to_string() };
            check(&text);
            // And with one character more, less, or another one.
            let place = cut.index(text.chars().count() + 1);
            let before: String = text.chars().take(place).collect();
            let behind: String = text.chars().skip(place).collect();
            check(&format!("{before}{other}{behind}"));
            check(&before);
            check(&format!("{before}{}", behind.chars().skip(1).collect::<String>()));
        }
    }
}
