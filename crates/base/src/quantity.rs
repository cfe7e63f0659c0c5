//! Resource quantities such as `100m`, `2Gi` or `1e3`: parsing, comparing, adding and the canonical form.
//! See <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.

use std::fmt;
use std::str::FromStr;

/// Which family of suffixes a quantity is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `m`, none, `k`, `M`, ...
    DecimalSi,
    /// `Ki`, `Mi`, `Gi`, ...
    BinarySi,
    /// `e3`, `E6`, ...
    DecimalExponent,
}

/// An exact number of nano-units, with the way it is written.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;

/// Why a text is no quantity; the message is the one that upstream's API server gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseQuantityError;

impl fmt::Display for ParseQuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    }
}

impl std::error::Error for ParseQuantityError {}

impl Quantity {
    /// Zero, written `0`.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// A whole number of units.
    pub fn from_units(units: i64, format: Format) -> Self {
        Self { nanos: i128::from(units) * NANO, format }
    }

    /// A number of thousandths, such as milli-CPUs.
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// The value in whole units, rounded up (away from zero), as upstream's `Value()`.
    pub fn value(&self) -> i64 {
        saturate(div_away(self.nanos, NANO))
    }

    /// The value in thousandths, rounded up (away from zero), as upstream's `MilliValue()`.
    pub fn milli_value(&self) -> i64 {
        saturate(div_away(self.nanos, NANO / 1000))
    }

    /// The exact value in billionths.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    /// Whether the value is below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether the value is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether the value is a whole number of units.
    pub fn is_integer(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// The sum, written as `self` is (as `other` is where `self` is zero).
    pub fn plus(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference, written as `self` is.
    pub fn minus(self, other: Quantity) -> Quantity {
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format: self.format }
    }
}

fn saturate(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

fn div_away(nanos: i128, unit: i128) -> i128 {
    let quotient = nanos / unit;
    if nanos % unit == 0 { quotient } else { quotient + nanos.signum() }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let (sign, rest) = match text.as_bytes().first() {
            Some(b'-') => (-1, &text[1..]),
            Some(b'+') => (1, &text[1..]),
            Some(_) => (1, text),
            None => return Err(ParseQuantityError),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(ParseQuantityError);
        }
        let (factor, exponent, format) = suffix_scale(suffix).ok_or(ParseQuantityError)?;
        let mut digits = 0i128;
        for digit in whole.bytes().chain(fraction.bytes()) {
            digits = digits.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
        }
        let exponent = exponent + 9 - fraction.len() as i32;
        let scaled = digits.saturating_mul(factor);
        let nanos = if exponent >= 0 {
            scaled.saturating_mul(pow10(exponent as u32))
        } else {
            // Finer than a nano-unit rounds up, as upstream does.
            let unit = pow10(exponent.unsigned_abs());
            scaled / unit + i128::from(scaled % unit != 0)
        };
        Ok(Quantity { nanos: sign * nanos, format })
    }
}

/// The factor, the power of ten and the format that a suffix stands for.
fn suffix_scale(suffix: &str) -> Option<(i128, i32, Format)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((1, *exponent, Format::DecimalSi));
    }
    if let Some((_, bits)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((1i128 << bits, 0, Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let exponent: i32 = exponent.parse().ok()?;
    (-30..=30).contains(&exponent).then_some((1, exponent, Format::DecimalExponent))
}

fn pow10(exponent: u32) -> i128 {
    10i128.checked_pow(exponent).unwrap_or(i128::MAX)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let units = self.nanos / NANO;
        if self.format == Format::BinarySi && self.nanos % NANO == 0 && units.abs() >= 1024 {
            let fits = |bits: u32| units % (1i128 << bits) == 0;
            let (suffix, bits) = BINARY.iter().rev().find(|(_, bits)| fits(*bits)).copied().unwrap_or(("", 0));
            return write!(f, "{}{suffix}", units >> bits);
        }
        let fits = |exponent: i32| self.nanos % pow10((exponent + 9) as u32) == 0;
        let (suffix, exponent) = DECIMAL.iter().rev().find(|(_, e)| fits(*e)).copied().unwrap_or(("n", -9));
        let number = self.nanos / pow10((exponent + 9) as u32);
        match self.format {
            Format::DecimalExponent if exponent != 0 => write!(f, "{number}e{exponent}"),
            _ => write!(f, "{number}{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, canonical: &str) {
        let quantity: Quantity = text.parse().expect(text);
        assert_eq!(quantity.to_string(), canonical, "{text}");
    }

    #[test]
    fn quantities_are_written_in_their_canonical_form() {
        for (text, canonical) in [
            ("0", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("2Gi", "2Gi"),
            ("1e3", "1e3"),
            ("12E6", "12e6"),
            ("1000k", "1M"),
            ("-5", "-5"),
            ("1536", "1536"),
            ("64Mi", "64Mi"),
        ] {
            check(text, canonical);
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "x", "1x", "1.2.3", "Mi", "1 Gi", "1mm", "--1"] {
            assert_eq!(text.parse::<Quantity>(), Err(ParseQuantityError), "{text}");
        }
    }

    #[test]
    fn values_round_up() {
        let parse = |text: &str| text.parse::<Quantity>().expect("valid");
        assert_eq!(parse("1500m").value(), 2);
        assert_eq!(parse("0.1m").milli_value(), 1);
        assert_eq!(parse("1Gi").value(), 1 << 30);
        assert!(parse("900m") < parse("1"));
        assert_eq!(parse("1Gi").plus(parse("1Mi")).to_string(), "1025Mi");
    }
}
