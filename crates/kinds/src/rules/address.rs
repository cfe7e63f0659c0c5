//! What may be wrong with addresses and ranges of addresses, in their text form.
//! Spellings that programs read differently (leading zeros, IPv4 within IPv6, bits beyond a prefix) are refused, as upstream
//! does since KEP-4858.

use std::net::{IpAddr, Ipv4Addr};

/// What is wrong with an address.
pub fn ip_faults(text: &str) -> Vec<String> {
    match (text.parse::<IpAddr>(), without_zeros(text)) {
        (Ok(ip), _) if is_mapped(ip) => vec!["must not be an IPv4-mapped IPv6 address".to_owned()],
        (Ok(_), _) => Vec::new(),
        (Err(_), Some(_)) => vec!["must not have leading 0s".to_owned()],
        (Err(_), None) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// What is wrong with a range.
pub fn cidr_faults(text: &str) -> Vec<String> {
    let Some(range) = Range::read(text) else {
        return vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()];
    };
    let mut faults = Vec::new();
    let spelled = text.split_once('/').map_or("", |(_, length)| length);
    let zeros = spelled.len() > 1 && spelled.starts_with('0');
    if zeros || text.split_once('/').is_some_and(|(address, _)| address.parse::<IpAddr>().is_err()) {
        faults.push("must not have leading 0s in IP or prefix length".to_owned());
    } else if is_mapped(range.ip) {
        faults.push("must not have an IPv4-mapped IPv6 address".to_owned());
    }
    if range.network() != range.bits() {
        faults.push("must not have bits set beyond the prefix length".to_owned());
    }
    faults
}

/// What is wrong with the address of something particular.
pub fn special_faults(ip: IpAddr) -> Vec<String> {
    let mut faults = Vec::new();
    if ip.is_unspecified() {
        faults.push(format!("may not be unspecified ({ip})"));
    }
    if ip.is_loopback() {
        faults.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    }
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] == 0xff02),
    };
    if link_local {
        faults.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if link_local_multicast {
        faults.push("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned());
    }
    faults
}

/// Whether there is at least one of each family; `None` where one cannot be read.
pub fn is_dual_stack<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Option<bool> {
    let families: Option<Vec<_>> =
        addresses.into_iter().map(|text| text.split('/').next()?.parse::<IpAddr>().ok()).collect();
    let families = families?;
    Some(families.iter().any(IpAddr::is_ipv4) && families.iter().any(IpAddr::is_ipv6))
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// Reads an IPv4 address whose numbers begin with zeros, as some programs do.
fn without_zeros(text: &str) -> Option<IpAddr> {
    let parts: Vec<_> = text.split('.').collect();
    let numbers: Option<Vec<u8>> =
        parts.iter().map(|part| part.parse().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()))).collect();
    let numbers: [u8; 4] = numbers?.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(numbers)))
}

/// A range of addresses.
#[derive(Clone, Copy)]
pub struct Range {
    ip: IpAddr,
    length: u32,
}

impl Range {
    /// Reads a range, also from a spelling that is refused.
    pub fn read(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let ip = address.parse().ok().or_else(|| without_zeros(address))?;
        let all_digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u32 = length.parse().ok().filter(|_| all_digits)?;
        let range = Self { ip, length };
        (length <= range.width()).then_some(range)
    }

    /// Whether this range lies within another and is smaller.
    pub fn is_strictly_within(self, outer: Self) -> bool {
        self.width() == outer.width() && self.length > outer.length && outer.masked(self.bits()) == outer.network()
    }

    fn width(self) -> u32 {
        if self.ip.is_ipv4() { 32 } else { 128 }
    }

    fn bits(self) -> u128 {
        match self.ip {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        }
    }

    fn network(self) -> u128 {
        self.masked(self.bits())
    }

    fn masked(self, bits: u128) -> u128 {
        let shift = self.width() - self.length;
        if shift >= 128 { 0 } else { bits >> shift << shift }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        for good in ["10.0.0.1", "::1", "2001:db8::1"] {
            assert_eq!(ip_faults(good), Vec::<String>::new());
        }
        assert_eq!(ip_faults("010.0.0.1"), ["must not have leading 0s"]);
        assert_eq!(ip_faults("::ffff:1.2.3.4"), ["must not be an IPv4-mapped IPv6 address"]);
        assert_eq!(ip_faults("x").len(), 1);
        for good in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/64"] {
            assert_eq!(cidr_faults(good), Vec::<String>::new(), "{good}");
        }
        assert_eq!(cidr_faults("10.0.0.1/8"), ["must not have bits set beyond the prefix length"]);
        assert_eq!(cidr_faults("10.0.0.0/08"), ["must not have leading 0s in IP or prefix length"]);
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "a/8", "10.0.0.0/"] {
            assert!(cidr_faults(bad)[0].starts_with("must be a valid CIDR value"), "{bad}");
        }
    }

    #[test]
    fn ranges_within_others() {
        let range = |text: &str| Range::read(text).expect("a range");
        assert!(range("10.1.0.0/16").is_strictly_within(range("10.0.0.0/8")));
        assert!(!range("10.0.0.0/8").is_strictly_within(range("10.0.0.0/8")));
        assert!(!range("11.0.0.0/16").is_strictly_within(range("10.0.0.0/8")));
        assert!(range("11.0.0.0/16").is_strictly_within(range("0.0.0.0/0")));
    }
}
