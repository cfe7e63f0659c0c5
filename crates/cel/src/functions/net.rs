//! Kubernetes' libraries of addresses, ranges of addresses and URLs.

use std::net::IpAddr;
use std::sync::Arc;

use crate::error::EvalError;
use crate::eval::{Machine, no_overload};
use crate::library::{Library, Opaque, Url};
use crate::value::{Key, Map, Result, Text, Value};

pub(crate) static LIBRARY: Library = Library {
    signatures: "
        ip string_to_ip (string) IP
        ip cidr_ip CIDR.() IP
        isIP is_ip (string) bool
        ip.isCanonical ip_is_canonical (string) bool
        family ip_family IP.() int
        isUnspecified ip_is_unspecified IP.() bool
        isLoopback ip_is_loopback IP.() bool
        isLinkLocalMulticast ip_is_link_local_multicast IP.() bool
        isLinkLocalUnicast ip_is_link_local_unicast IP.() bool
        isGlobalUnicast ip_is_global_unicast IP.() bool
        cidr string_to_cidr (string) CIDR
        isCIDR is_cidr (string) bool
        containsIP cidr_contains_ip_string CIDR.(string) bool
        containsIP cidr_contains_ip_ip CIDR.(IP) bool
        containsCIDR cidr_contains_cidr_string CIDR.(string) bool
        containsCIDR cidr_contains_cidr CIDR.(CIDR) bool
        prefixLength cidr_prefix_length CIDR.() int
        masked cidr_masked CIDR.() CIDR
        url string_to_url (string) URL
        isURL is_url_string (string) bool
        getScheme url_get_scheme URL.() string
        getHost url_get_host URL.() string
        getHostname url_get_hostname URL.() string
        getPort url_get_port URL.() string
        getEscapedPath url_get_escaped_path URL.() string
        getQuery url_get_query URL.() map(string, list(string))
    ",
    runs: &[
        ("ip", ip),
        ("isIP", |_, args| with_text(args, |text| parse_ip(text).is_ok())),
        ("ip.isCanonical", is_canonical),
        ("family", |_, args| match &args[0] {
            Value::Opaque(Opaque::Ip(address)) => Ok(Value::Int(if address.is_ipv4() { 4 } else { 6 })),
            _ => Err(no_overload()),
        }),
        ("isUnspecified", |_, args| with_ip(args, IpAddr::is_unspecified)),
        ("isLoopback", |_, args| with_ip(args, IpAddr::is_loopback)),
        ("isLinkLocalMulticast", |_, args| with_ip(args, is_link_local_multicast)),
        ("isLinkLocalUnicast", |_, args| with_ip(args, is_link_local_unicast)),
        ("isGlobalUnicast", |_, args| with_ip(args, is_global_unicast)),
        ("cidr", |_, args| match args {
            [Value::String(text)] => {
                let (address, bits) = parse_cidr(text)?;
                Ok(Value::Opaque(Opaque::Cidr(address, bits)))
            }
            _ => Err(no_overload()),
        }),
        ("isCIDR", |_, args| with_text(args, |text| parse_cidr(text).is_ok())),
        ("containsIP", contains_ip),
        ("containsCIDR", contains_cidr),
        ("prefixLength", |_, args| {
            let (_, bits) = cidr(&args[0])?;
            Ok(Value::Int(i64::from(bits)))
        }),
        ("masked", |_, args| {
            let (address, bits) = cidr(&args[0])?;
            Ok(Value::Opaque(Opaque::Cidr(masked(address, bits), bits)))
        }),
        ("url", |_, args| match args {
            [Value::String(text)] => Ok(Value::Opaque(Opaque::Url(Arc::new(parse_url(text)?)))),
            _ => Err(no_overload()),
        }),
        ("isURL", |_, args| with_text(args, |text| parse_url(text).is_ok())),
        ("getScheme", |_, args| with_url(args, |url| &url.scheme)),
        ("getHost", |_, args| with_url(args, |url| &url.host)),
        ("getHostname", |_, args| with_url(args, |url| &url.hostname)),
        ("getPort", |_, args| with_url(args, |url| &url.port)),
        ("getEscapedPath", |_, args| with_url(args, |url| &url.path)),
        ("getQuery", query),
    ],
};

fn with_text<'a>(args: &[Value<'a>], test: impl Fn(&str) -> bool) -> Result<Value<'a>> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(test(text))),
        _ => Err(no_overload()),
    }
}

fn with_ip<'a>(args: &[Value<'a>], test: impl Fn(&IpAddr) -> bool) -> Result<Value<'a>> {
    match args {
        [Value::Opaque(Opaque::Ip(address))] => Ok(Value::Bool(test(address))),
        _ => Err(no_overload()),
    }
}

fn with_url<'a>(args: &[Value<'a>], get: impl Fn(&Url) -> &String) -> Result<Value<'a>> {
    match args {
        [Value::Opaque(Opaque::Url(url))] => Ok(Value::text(get(url).as_str())),
        _ => Err(no_overload()),
    }
}

/// Reads an address; one of IPv4 in the clothes of IPv6 is refused, as is a zone.
pub fn parse_ip(text: &str) -> Result<IpAddr> {
    if text.contains('%') {
        return Err(EvalError::new(format!("IP Address {text:?} with zone value is not allowed")));
    }
    let address: IpAddr = text.parse().map_err(|_| {
        EvalError::new(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        ))
    })?;
    match address {
        IpAddr::V6(six) if six.to_ipv4_mapped().is_some() => {
            Err(EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        address => Ok(address),
    }
}

fn ip<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::String(text)] => Ok(Value::Opaque(Opaque::Ip(parse_ip(text)?))),
        [Value::Opaque(Opaque::Cidr(address, _))] => Ok(Value::Opaque(Opaque::Ip(*address))),
        _ => Err(no_overload()),
    }
}

fn is_canonical<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(parse_ip(text)?.to_string() == text[..])),
        _ => Err(no_overload()),
    }
}

fn is_link_local_multicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.octets()[..3] == [224, 0, 0],
        IpAddr::V6(six) => six.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_unicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_global_unicast(address: &IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(four) if four.is_broadcast());
    !is_broadcast
        && !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !is_link_local_unicast(address)
}

/// Reads a range of addresses.
pub fn parse_cidr(text: &str) -> Result<(IpAddr, u8)> {
    let bad = |why: &str| {
        EvalError::new(format!(
            "network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}"
        ))
    };
    let (address, bits) = text.rsplit_once('/').ok_or_else(|| bad("no '/'"))?;
    let address: IpAddr = address.parse().map_err(|_| bad("unable to parse IP"))?;
    if matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some()) {
        return Err(EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")));
    }
    let plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let length: u8 = bits.parse().ok().filter(|_| plain).ok_or_else(|| bad("bad bits after slash"))?;
    if length > width(&address) {
        return Err(bad("prefix length out of range"));
    }
    Ok((address, length))
}

fn width(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// An address as a number that fills 128 bits from the left.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => u128::from(u32::from(four)) << 96,
        IpAddr::V6(six) => u128::from(six),
    }
}

fn mask(bits: u8) -> u128 {
    if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    let kept = number(address) & mask(bits);
    match address {
        IpAddr::V4(_) => IpAddr::V4(((kept >> 96) as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(kept.into()),
    }
}

fn cidr(value: &Value) -> Result<(IpAddr, u8)> {
    match value {
        Value::Opaque(Opaque::Cidr(address, bits)) => Ok((*address, *bits)),
        _ => Err(no_overload()),
    }
}

fn holds(range: (IpAddr, u8), address: IpAddr) -> bool {
    range.0.is_ipv4() == address.is_ipv4() && (number(range.0) ^ number(address)) & mask(range.1) == 0
}

fn contains_ip<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let range = cidr(&args[0])?;
    let address = match &args[1] {
        Value::Opaque(Opaque::Ip(address)) => *address,
        Value::String(text) => parse_ip(text)?,
        _ => return Err(no_overload()),
    };
    Ok(Value::Bool(holds(range, address)))
}

fn contains_cidr<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let range = cidr(&args[0])?;
    let (address, bits) = match &args[1] {
        Value::String(text) => parse_cidr(text)?,
        other => cidr(other)?,
    };
    Ok(Value::Bool(bits >= range.1 && holds(range, address)))
}

/// Reads an absolute URL or an absolute path.
pub fn parse_url(text: &str) -> Result<Url> {
    let bad =
        |why: &str| EvalError::new(format!("URL parse error during conversion from string: parse {text:?}: {why}"));
    if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return Err(bad("net/url: invalid control character in URL"));
    }
    if text.is_empty() {
        return Err(bad("empty url"));
    }
    let scheme_end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && !matches!(letter, '+' | '-' | '.'));
    let scheme =
        scheme_end.filter(|end| *end > 0 && text[*end..].starts_with(':') && text.as_bytes()[0].is_ascii_alphabetic());
    if text.starts_with(':') {
        return Err(bad("missing protocol scheme"));
    }
    let (scheme, rest) = match scheme {
        Some(end) => (text[..end].to_ascii_lowercase(), &text[end + 1..]),
        None => (String::new(), text),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if scheme.is_empty() && !rest.starts_with('/') {
        return Err(bad("invalid URI for request"));
    }
    let mut url = Url {
        text: text.to_owned(),
        scheme,
        host: String::new(),
        hostname: String::new(),
        port: String::new(),
        path: String::new(),
        query: query.to_owned(),
    };
    if url.scheme.is_empty() || !rest.starts_with("//") {
        if !rest.starts_with('/') && !url.scheme.is_empty() {
            // An opaque URL, `mailto:a@b`, has neither host nor path.
            return Ok(url);
        }
        check_escapes(rest).map_err(|why| bad(&why))?;
        url.path = rest.to_owned();
        return Ok(url);
    }
    let after = &rest[2..];
    let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.contains([' ', '<', '>', '"', '\\', '^', '`', '{', '|', '}']) {
        return Err(bad("invalid character in host name"));
    }
    let (name, port) = match host.strip_prefix('[') {
        Some(six) => {
            let (name, port) = six.split_once(']').ok_or_else(|| bad("missing ']' in host"))?;
            (name, port)
        }
        None => host.split_at(host.rfind(':').unwrap_or(host.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port,
        None if port.is_empty() => "",
        _ => return Err(bad(&format!("invalid port {port:?} after host"))),
    };
    check_escapes(path).map_err(|why| bad(&why))?;
    url.host = host.to_owned();
    url.hostname = name.to_owned();
    url.port = port.to_owned();
    url.path = path.to_owned();
    Ok(url)
}

fn check_escapes(text: &str) -> std::result::Result<(), String> {
    for (index, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(index + 1..index + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            let shown: String = text[index..].chars().take(3).collect();
            return Err(format!("invalid URL escape {shown:?}"));
        }
    }
    Ok(())
}

fn unescaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match (bytes[at], digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn query<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let [Value::Opaque(Opaque::Url(url))] = args else { return Err(no_overload()) };
    machine.work(url.query.len() as u64)?;
    let mut entries: std::collections::BTreeMap<Key<'a>, Vec<Value<'a>>> = Default::default();
    for pair in url.query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = Key::String(Text::Shared(unescaped(name).into()));
        entries.entry(key).or_default().push(Value::text(unescaped(value)));
    }
    let map = entries.into_iter().map(|(key, values)| (key, Value::list(values))).collect();
    Ok(Value::Map(Map::Own(std::rc::Rc::new(map))))
}
