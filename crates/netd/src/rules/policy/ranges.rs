//! Sets of addresses as ranges from a first to a last one.

use std::net::IpAddr;

use skiff_base::Cidr;

use crate::family::{Family, number};

/// The addresses from the first to the last, both included and of one family.
pub(super) type Range = (IpAddr, IpAddr);

/// A block of addresses without some parts of it.
pub(super) fn without(block: Cidr, except: &[Cidr]) -> Vec<Range> {
    let ours = except.iter().filter(|hole| hole.family() == block.family());
    let mut holes: Vec<(u128, u128)> = ours.map(|hole| bounds(*hole)).collect();
    holes.sort_unstable();
    let (first, last) = bounds(block);
    // The first address that is not looked at yet; none behind the last one of all.
    let mut next = Some(first);
    let mut left = Vec::new();
    for (from, to) in holes {
        let Some(start) = next.filter(|start| *start <= last) else { break };
        if start < from {
            left.push((start, last.min(from - 1)));
        }
        next = to.checked_add(1).map(|behind| behind.max(start));
    }
    left.extend(next.filter(|start| *start <= last).map(|start| (start, last)));
    let address = |number| block.family().address(number);
    left.into_iter().map(|(first, last)| (address(first), address(last))).collect()
}

/// The same addresses as the fewest ranges, in order.
pub(super) fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut result: Vec<Range> = Vec::new();
    for (first, last) in ranges {
        match result.last_mut() {
            Some((_, end)) if touches(*end, first) => *end = last.max(*end),
            _ => result.push((first, last)),
        }
    }
    result
}

/// Whether a range that begins with `next` goes on where, or before, one ends that began no later.
fn touches(end: IpAddr, next: IpAddr) -> bool {
    Family::of(end) == Family::of(next) && number(next) <= number(end).saturating_add(1)
}

fn bounds(block: Cidr) -> (u128, u128) {
    (number(block.base()), number(block.last()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(block: &str, except: &[&str], expected: &str) {
        let prefix = |text: &str| text.parse::<Cidr>().expect("a range");
        let except: Vec<Cidr> = except.iter().map(|text| prefix(text)).collect();
        let found = without(prefix(block), &except);
        let text: Vec<String> = found.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        assert_eq!(text.join(" "), expected, "{block} without {except:?}");
        // One by one, at the places where something changes.
        let block = prefix(block);
        let edges = except.iter().chain([&block]).map(|range| bounds(*range));
        let greatest = block.family().last_number();
        for near in
            edges.flat_map(|(first, last)| [first.saturating_sub(1), first, last, last.saturating_add(1).min(greatest)])
        {
            let at = block.family().address(near);
            let wanted = block.contains(at) && !except.iter().any(|hole| hole.contains(at));
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
        check(
            "fd00::/8",
            &["fd00:1::/32"],
            "fd00::-fd00:0:ffff:ffff:ffff:ffff:ffff:ffff fd00:2::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        );
        check("::/0", &["8000::/1", "::/2"], "4000::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        check("::/0", &["::/0"], "");
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
        let all = vec![range("fd00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), range("fd00::1", "fd00::2")];
        assert_eq!(merged(all), [range("fd00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]);
    }
}
