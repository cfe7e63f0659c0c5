//! Sets of addresses as ranges from a first to a last one.

use std::net::Ipv4Addr;

use crate::prefix::Prefix;

/// The addresses from the first to the last, both included.
pub(super) type Range = (Ipv4Addr, Ipv4Addr);

/// A block of addresses without some parts of it.
pub(super) fn without(block: Prefix, except: &[Prefix]) -> Vec<Range> {
    let mut holes: Vec<(u64, u64)> = except.iter().map(|hole| bounds(*hole)).collect();
    holes.sort_unstable();
    let (mut next, last) = bounds(block);
    let mut left = Vec::new();
    for (from, to) in holes {
        if next < from.min(last + 1) {
            left.push((next, (from - 1).min(last)));
        }
        next = next.max(to + 1);
    }
    if next <= last {
        left.push((next, last));
    }
    left.into_iter().map(|(first, last)| (address(first), address(last))).collect()
}

/// The same addresses as the fewest ranges, in order.
pub(super) fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut result: Vec<Range> = Vec::new();
    for (first, last) in ranges {
        match result.last_mut() {
            Some((_, end)) if u64::from(u32::from(first)) <= u64::from(u32::from(*end)) + 1 => *end = last.max(*end),
            _ => result.push((first, last)),
        }
    }
    result
}

fn bounds(block: Prefix) -> (u64, u64) {
    let first = u32::from(block.network());
    (first.into(), (first | !u32::from(block.mask())).into())
}

fn address(number: u64) -> Ipv4Addr {
    u32::try_from(number).expect("it lies within a block of addresses").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(block: &str, except: &[&str], expected: &str) {
        let prefix = |text: &str| text.parse::<Prefix>().expect("a range");
        let except: Vec<Prefix> = except.iter().map(|text| prefix(text)).collect();
        let found = without(prefix(block), &except);
        let text: Vec<String> = found.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        assert_eq!(text.join(" "), expected, "{block} without {except:?}");
        // One by one, at the places where something changes.
        let block = prefix(block);
        let edges = except.iter().chain([&block]).map(|range| bounds(*range));
        for near in edges.flat_map(|(first, last)| [first.saturating_sub(1), first, last, (last + 1).min(0xffff_ffff)])
        {
            let at = address(near);
            let wanted = block.contains(at.into()) && !except.iter().any(|hole| hole.contains(at.into()));
            assert_eq!(found.iter().any(|(first, last)| (*first..=*last).contains(&at)), wanted, "{at} in {block}");
        }
    }

    #[test]
    fn holes_are_cut_out() {
        check("10.0.0.0/8", &[], "10.0.0.0-10.255.255.255");
        check("10.0.0.0/8", &["10.1.0.0/16"], "10.0.0.0-10.0.255.255 10.2.0.0-10.255.255.255");
        check("10.0.0.0/8", &["10.0.0.0/9", "10.255.0.0/16"], "10.128.0.0-10.254.255.255");
        check("10.0.0.0/8", &["10.1.0.0/16", "10.0.0.0/12", "10.1.2.0/24"], "10.16.0.0-10.255.255.255");
        check("10.0.0.0/24", &["10.0.0.0/24"], "");
        check("0.0.0.0/0", &["0.0.0.0/8", "255.255.255.255/32"], "1.0.0.0-255.255.255.254");
        check("10.0.1.0/24", &["10.0.0.0/24", "10.0.2.0/24"], "10.0.1.0-10.0.1.255");
    }

    #[test]
    fn overlapping_and_touching_ranges_become_one() {
        let range = |first: &str, last: &str| (first.parse().expect("an address"), last.parse().expect("an address"));
        let all = vec![
            range("10.0.1.0", "10.0.1.255"),
            range("10.0.0.0", "10.0.0.255"),
            range("10.0.0.7", "10.0.0.9"),
            range("10.9.0.0", "255.255.255.255"),
            range("255.255.255.255", "255.255.255.255"),
        ];
        assert_eq!(merged(all), [range("10.0.0.0", "10.0.1.255"), range("10.9.0.0", "255.255.255.255")]);
    }
}
