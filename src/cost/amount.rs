//! Exact amounts: AWS's own text beside its value as a decimal.

use std::{borrow::Cow, str::FromStr};

use compact_str::{CompactString, ToCompactString as _};
use rust_decimal::Decimal;

/// A figure of AWS: its own text for people and events, its value for comparisons.
///
/// Equality is by value and unit: `1.10 USD` equals `1.1 USD`.
#[derive(Clone, Debug)]
pub struct Amount {
    text: CompactString,
    unit: CompactString,
    value: Decimal,
}

/// The same, where it was read: nothing is copied.
#[derive(Clone, Copy, Debug)]
pub struct AmountRef<'a> {
    text: &'a str,
    unit: &'a str,
    value: Decimal,
}

/// A text that is not an amount, or one with more digits than can be held exactly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a decimal amount of at most 28 digits")]
pub struct AmountError {
    text: String,
}

impl Amount {
    /// Takes AWS's text and unit as they are; the text may have an exponent.
    ///
    /// # Errors
    /// When the text is no decimal number or cannot be held without rounding.
    pub fn parse(
        text: impl Into<CompactString>,
        unit: impl Into<CompactString>,
    ) -> Result<Self, AmountError> {
        let (text, unit) = (text.into(), unit.into());
        match parse(&text) {
            Some(value) => Ok(Self { text, unit, value }),
            None => Err(AmountError { text: text.into() }),
        }
    }

    /// Where it is.
    pub fn borrowed(&self) -> AmountRef<'_> {
        AmountRef { text: &self.text, unit: &self.unit, value: self.value }
    }

    /// Whether the value is another's, which is nearly always to be seen without any arithmetic.
    pub fn has_value(&self, value: Decimal) -> bool {
        let same_digits = self.value.unpack() == value.unpack();
        same_digits || self.value == value
    }

    /// An amount of which only the value is known; its text is the plain decimal.
    pub fn from_value(value: Decimal, unit: impl Into<CompactString>) -> Self {
        Self { text: value.to_compact_string(), unit: unit.into(), value }
    }

    /// Zero in a unit; its text is `0`, as AWS writes it.
    pub fn zero(unit: impl Into<CompactString>) -> Self {
        Self::from_value(Decimal::ZERO, unit)
    }

    /// AWS's own text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// AWS's unit: `USD`, `CNY`, `GB-Month`, `N/A`.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// The exact value.
    pub const fn value(&self) -> Decimal {
        self.value
    }

    /// The value in plain digits, without an exponent or a needless zero: the same for equal values.
    pub fn normalised(&self) -> Cow<'_, str> {
        if is_normalised(&self.text) {
            return Cow::Borrowed(&self.text);
        }
        Cow::Owned(self.value.normalize().to_string())
    }

    /// Whether the value is zero, however it is written.
    pub const fn is_zero(&self) -> bool {
        self.value.is_zero()
    }
}

impl<'a> AmountRef<'a> {
    /// Takes AWS's text and unit as they are, beside another amount: of most rows all metrics state the
    /// same, which is then read once.
    ///
    /// # Errors
    /// As [`Amount::parse`].
    pub fn parse_after(before: Option<Self>, text: &'a str, unit: &'a str) -> Result<Self, AmountError> {
        match before {
            Some(before) if before.text == text => Ok(Self { unit, ..before }),
            _ => match parse(text) {
                Some(value) => Ok(Self { text, unit, value }),
                None => Err(AmountError { text: text.to_owned() }),
            },
        }
    }

    /// AWS's unit.
    pub const fn unit(&self) -> &'a str {
        self.unit
    }

    /// The exact value.
    pub const fn value(&self) -> Decimal {
        self.value
    }

    /// A copy that is its own.
    pub fn to_amount(self) -> Amount {
        Amount { text: self.text.into(), unit: self.unit.into(), value: self.value }
    }
}

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value && self.unit == other.unit
    }
}

impl Eq for Amount {}

/// The value of a text that is an amount.
fn parse(text: &str) -> Option<Decimal> {
    parse_plain(text).or_else(|| parse_exact(text))
}

/// The form nearly every figure has, at a fifth of the price: a sign perhaps, digits, and perhaps a
/// point between digits, 18 of them at most. `None` for any other text, and for a zero with a sign.
fn parse_plain(text: &str) -> Option<Decimal> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let bytes = digits.as_bytes();
    if bytes.len() > 19 || !bytes.first()?.is_ascii_digit() || !bytes.last()?.is_ascii_digit() {
        return None;
    }
    let mut mantissa = 0_u64;
    let mut point = None;
    for (place, &byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' => mantissa = mantissa * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(place),
            _ => return None,
        }
    }
    if bytes.len() - usize::from(point.is_some()) > 18 || (negative && mantissa == 0) {
        return None;
    }
    let scale = point.map_or(0, |point| bytes.len() - 1 - point);
    let mut value = Decimal::from(mantissa);
    value.set_scale(u32::try_from(scale).ok()?).ok()?;
    value.set_sign_negative(negative);
    Some(value)
}

/// Whether a text, which is an amount, is one no other text of the same value may differ from; as
/// nearly every figure of AWS is, and then nothing is to be computed.
fn is_normalised(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let whole = match digits.iter().position(|byte| *byte == b'.') {
        Some(point) if point + 1 < digits.len() && !digits.ends_with(b"0") => &digits[..point],
        Some(_) => return false,
        None => digits,
    };
    let plain = digits.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    plain && (whole == b"0" || (!whole.is_empty() && whole[0] != b'0')) && text != "-0"
}

/// The only other way from text to a decimal: `Decimal::from_str` would round silently.
fn parse_exact(text: &str) -> Option<Decimal> {
    // `1_000` is an amount to Rust, and to no reader of JSON.
    if text.contains('_') {
        return None;
    }
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else {
        return Decimal::from_str_exact(text).ok();
    };
    let mantissa = Decimal::from_str_exact(mantissa).ok()?;
    let exponent = i64::from_str(exponent).ok()?;
    let scale = i64::from(mantissa.scale()) - exponent;
    if scale >= 0 {
        let scale = u32::try_from(scale).ok().filter(|&scale| scale <= 28)?;
        return Decimal::try_from_i128_with_scale(mantissa.mantissa(), scale).ok();
    }
    let zeros = u32::try_from(-scale).ok()?;
    let shifted = mantissa.mantissa().checked_mul(10_i128.checked_pow(zeros)?)?;
    Decimal::try_from_i128_with_scale(shifted, 0).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_exact_or_refused() {
        for (text, plain) in [
            ("0", Some("0")),
            ("0.2672917174", Some("0.2672917174")),
            ("-0.0000000289", Some("-0.0000000289")),
            ("1.10", Some("1.10")),
            ("1E-7", Some("0.0000001")),
            ("2.5e+3", Some("2500")),
            ("12345678901234567890.12345678", Some("12345678901234567890.12345678")),
            ("0.12345678901234567890123456789012345", None),
            ("1e400", None),
            ("1e-29", None),
            ("x.xx", None),
            ("", None),
            ("NaN", None),
            ("1,5", None),
            ("1_000", None),
        ] {
            let parsed = Amount::parse(text.to_owned(), "USD".to_owned());
            assert_eq!(parsed.ok().map(|a| a.value().to_string()).as_deref(), plain, "{text}");
        }
    }

    #[test]
    fn equality_is_by_value_and_unit() {
        let amount = |text: &str, unit: &str| Amount::parse(text.to_owned(), unit.to_owned()).unwrap();
        assert_eq!(amount("0", "USD"), amount("0.00", "USD"));
        assert_eq!(amount("1.1", "USD"), amount("11e-1", "USD"));
        assert_ne!(amount("1.1", "USD"), amount("1.1", "CNY"));
        assert_ne!(amount("1.1", "USD"), amount("1.1000000001", "USD"));
    }

    proptest! {
        /// Digit for digit: `1.10` keeps its zero.
        #[test]
        fn the_quick_way_agrees_with_the_exact_one(text in "-?[0-9.]{0,22}|[0-9eE+_. -]{0,6}") {
            if let Some(value) = parse_plain(&text) {
                let exact = parse_exact(&text);
                prop_assert_eq!(exact.map(|exact| exact.to_string()), Some(value.to_string()));
                prop_assert_eq!(exact.map(|exact| exact.serialize()), Some(value.serialize()));
            }
        }

        #[test]
        fn a_normalised_text_is_the_one_of_its_value(text in "-?[0-9]{1,4}(\\.[0-9]{0,4})?([eE]-?[0-3])?|-?0[0.]{0,3}") {
            if let Ok(amount) = Amount::parse(text, "USD".to_owned()) {
                prop_assert_eq!(amount.normalised(), amount.value().normalize().to_string());
            }
        }

        #[test]
        fn a_text_of_ten_decimals_is_kept_to_the_digit(mantissa in -10_i64.pow(17)..10_i64.pow(17), scale in 0_u32..=10) {
            let text = Decimal::new(mantissa, scale).to_string();
            let amount = Amount::parse(text.clone(), "USD".to_owned()).unwrap();
            prop_assert_eq!(amount.text(), &text);
            prop_assert_eq!(amount.value().to_string(), text);
        }
    }
}
