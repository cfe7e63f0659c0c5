//! How many seats each priority level has: its share of the server's, and what levels lend each other. Pure.
//! See <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#prioritylevelconfiguration>.

/// How much of a period's demand is forgotten in the next one, as upstream's.
const SMOOTHING: f64 = 0.977;
/// A level that wants nothing is counted as if it wanted this much, so that there is something to divide by.
const LEAST_TARGET: f64 = 0.001;
/// Steps by which the fair proportion is found; each halves what is uncertain.
const STEPS: usize = 100;

/// What a level's configuration says of its seats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Its part, in proportion to those of all levels.
    pub shares: u32,
    /// How much of it others may have, in percent.
    pub lendable_percent: u32,
    /// How much it may have of others, in percent of its own; unlimited where it says nothing.
    pub borrowing_percent: Option<u32>,
    /// Whether its requests are never kept waiting.
    pub is_exempt: bool,
}

/// A level's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Its own seats.
    pub nominal: u32,
    /// What is left where it lends all it may.
    pub least: u32,
    /// What it has where it borrows all it may.
    pub most: u32,
}

/// What a level asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// The level's bounds.
    pub bounds: Bounds,
    /// Whether it is exempt.
    pub is_exempt: bool,
    /// The most that was asked for in the last period.
    pub high: u32,
    /// What is usually asked for.
    pub smoothed: f64,
}

/// The bounds of all levels of a server with `total` seats.
pub fn bounds(total: u32, levels: &[Share]) -> Vec<Bounds> {
    let sum: u32 = levels.iter().map(|level| level.shares).sum();
    let of = |level: &Share| {
        let part = f64::from(total) * f64::from(level.shares) / f64::from(sum.max(1));
        let nominal = part.ceil() as u32;
        let percent = |percent: u32| (f64::from(nominal) * f64::from(percent) / 100.0).round() as u32;
        let most = level.borrowing_percent.map_or(nominal.saturating_add(total), |limit| nominal + percent(limit));
        Bounds { nominal, least: nominal - percent(level.lendable_percent.min(100)), most }
    };
    levels.iter().map(of).collect()
}

/// What is usually asked for, after another period with this mean and deviation: it rises at once and falls slowly.
pub fn smoothed(before: f64, average: f64, deviation: f64) -> f64 {
    let envelope = average + deviation;
    envelope.max(SMOOTHING * before + (1.0 - SMOOTHING) * envelope)
}

/// What levels have until the next time.
#[derive(Debug, Clone, PartialEq)]
pub struct Divided {
    /// The seats of each.
    pub seats: Vec<u32>,
    /// What each was to have, had there been enough for all.
    pub targets: Vec<f64>,
    /// How much of that there is.
    pub proportion: f64,
}

/// The seats of each level until the next time.
pub fn divide(total: u32, levels: &[Wanted]) -> Divided {
    // What a level needs was its own first, and nobody has it for as long as it is needed.
    let kept = |level: &Wanted| level.bounds.least.max(level.high.min(level.bounds.nominal));
    let exempt: u32 = levels.iter().filter(|level| level.is_exempt).map(kept).sum();
    let left = f64::from(total.saturating_sub(exempt));
    let limited: Vec<&Wanted> = levels.iter().filter(|level| !level.is_exempt).collect();
    let proportion = proportion(left, &limited, kept);
    let of = |level: &Wanted| match level.is_exempt {
        true => kept(level),
        false => alloted(level, proportion, kept(level)).round() as u32,
    };
    let targets =
        levels.iter().map(|level| if level.is_exempt { f64::from(kept(level)) } else { target(level, kept(level)) });
    Divided { seats: levels.iter().map(of).collect(), targets: targets.collect(), proportion }
}

fn target(level: &Wanted, kept: u32) -> f64 {
    level.smoothed.max(f64::from(kept)).max(LEAST_TARGET)
}

fn alloted(level: &Wanted, proportion: f64, kept: u32) -> f64 {
    (proportion * target(level, kept)).clamp(f64::from(kept), f64::from(level.bounds.most.max(kept)))
}

/// The proportion of what levels want by which all seats are given away; where bounds allow none, the nearest.
fn proportion(left: f64, levels: &[&Wanted], kept: impl Fn(&Wanted) -> u32) -> f64 {
    let sum = |proportion: f64| levels.iter().map(|level| alloted(level, proportion, kept(level))).sum::<f64>();
    let (mut low, mut high) = (0.0, f64::from(u32::MAX) / LEAST_TARGET);
    for _ in 0..STEPS {
        let middle = (low + high) / 2.0;
        if sum(middle) > left { high = middle } else { low = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(shares: u32, lendable_percent: u32, borrowing_percent: Option<u32>) -> Share {
        Share { shares, lendable_percent, borrowing_percent, is_exempt: false }
    }

    fn wanted(bounds: Bounds, high: u32, smoothed: f64) -> Wanted {
        Wanted { bounds, is_exempt: false, high, smoothed }
    }

    /// The levels that every cluster begins with, of 600 seats.
    #[test]
    fn seats_are_shared_as_the_documentation_has_it() {
        let suggested = [(0, 0), (5, 0), (20, 50), (10, 0), (40, 25), (30, 33), (40, 50), (100, 90)];
        let all: Vec<Share> = suggested.iter().map(|(shares, lendable)| share(*shares, *lendable, None)).collect();
        let bounds = bounds(600, &all);
        let shown: Vec<(u32, u32)> = bounds.iter().map(|bounds| (bounds.nominal, bounds.least)).collect();
        assert_eq!(shown, [(0, 0), (13, 13), (49, 24), (25, 25), (98, 73), (74, 50), (98, 49), (245, 24)]);
        let limited = super::bounds(600, &[share(1, 50, Some(20)), share(1, 0, Some(0))]);
        assert_eq!(limited[0], Bounds { nominal: 300, least: 150, most: 360 });
        assert_eq!(limited[1], Bounds { nominal: 300, least: 300, most: 300 });
    }

    #[test]
    fn levels_lend_what_they_do_not_need() {
        let bounds = Bounds { nominal: 100, least: 10, most: 700 };
        let idle = wanted(bounds, 0, 0.0);
        // Who needs many gets what others may lend.
        assert_eq!(divide(300, &[wanted(bounds, 250, 250.0), idle, idle]).seats, [278, 11, 11]);
        // Who needs their own keep it.
        assert_eq!(divide(300, &[wanted(bounds, 250, 250.0), wanted(bounds, 90, 50.0), idle]).seats, [200, 90, 10]);
        // Where nobody needs any, all have alike.
        assert_eq!(divide(300, &[idle, idle, idle]).seats, [100, 100, 100]);
        // A level borrows no more than it may; what is left is nobody's.
        let modest = Bounds { most: 120, ..bounds };
        assert_eq!(
            divide(300, &[wanted(modest, 250, 250.0), wanted(modest, 0, 0.0), wanted(modest, 0, 0.0)]).seats[0],
            120
        );
        // What is exempt takes its part away first.
        let exempt =
            Wanted { bounds: Bounds { nominal: 50, least: 0, most: 50 }, is_exempt: true, high: 30, smoothed: 0.0 };
        assert_eq!(divide(300, &[exempt, idle, idle]).seats, [30, 135, 135]);
    }

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        let risen = smoothed(0.0, 10.0, 2.0);
        assert_eq!(risen, 12.0);
        let fallen = smoothed(risen, 0.0, 0.0);
        assert!((11.7..11.8).contains(&fallen), "{fallen}");
    }
}
