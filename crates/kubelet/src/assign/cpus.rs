//! Sets of processors: how they are written, where each one sits, and which ones to take.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Numbers of processors.
pub type Cpus = BTreeSet<u32>;

/// Where processors sit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    /// The NUMA node.
    pub numa: u32,
    /// The socket.
    pub socket: u32,
    /// The core within the machine.
    pub core: u32,
}

/// The processors of the machine.
pub type Topology = BTreeMap<u32, Seat>;

/// Reads `0-3,5`.
pub fn parse(text: &str) -> Option<Cpus> {
    let mut cpus = Cpus::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Writes `0-3,5`.
pub fn format(cpus: &Cpus) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => parts.push((*cpu, *cpu)),
        }
    }
    let text = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Reads the machine's processors from `/sys/devices/system`.
pub fn topology(system: &Path) -> Topology {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let online = parse(&read(system.join("cpu/online"))).unwrap_or_default();
    let mut numa = BTreeMap::new();
    for node in parse(&read(system.join("node/online"))).unwrap_or_default() {
        let list = read(system.join(format!("node/node{node}/cpulist")));
        numa.extend(parse(&list).unwrap_or_default().into_iter().map(|cpu| (cpu, node)));
    }
    let number =
        |cpu: u32, file: &str| read(system.join(format!("cpu/cpu{cpu}/topology/{file}"))).trim().parse::<u32>().ok();
    let mut cores = BTreeMap::new();
    let seats = online.into_iter().map(|cpu| {
        let socket = number(cpu, "physical_package_id").unwrap_or(0);
        let core_id = number(cpu, "core_id").unwrap_or(cpu);
        let next = u32::try_from(cores.len()).unwrap_or(u32::MAX);
        let core = *cores.entry((socket, core_id)).or_insert(next);
        (cpu, Seat { numa: numa.get(&cpu).copied().unwrap_or(0), socket, core })
    });
    seats.collect()
}

/// Takes processors so that as few NUMA nodes, sockets and cores as possible are shared: whole ones first, then the threads of the
/// cores that have the fewest left. `None` where there are too few.
pub fn take(available: &Cpus, number: usize, topology: &Topology) -> Option<Cpus> {
    if available.len() < number {
        return None;
    }
    let mut taken = Cpus::new();
    let mut left = available.clone();
    let units: [fn(&Seat) -> u32; 3] = [|seat| seat.numa, |seat| seat.socket, |seat| seat.core];
    for unit in units {
        let mut free: BTreeMap<u32, Cpus> = BTreeMap::new();
        for cpu in &left {
            if let Some(seat) = topology.get(cpu) {
                free.entry(unit(seat)).or_default().insert(*cpu);
            }
        }
        for (key, cpus) in free {
            let whole = topology.values().filter(|seat| unit(seat) == key).count();
            if cpus.len() == whole && taken.len() + whole <= number {
                left = &left - &cpus;
                taken.extend(cpus);
            }
        }
    }
    // The rest comes from where the fewest are left, so that what is whole stays so.
    let mut rest: Vec<u32> = left.iter().copied().collect();
    let crowd = |cpu: &u32, unit: fn(&Seat) -> u32| {
        let own = topology.get(cpu).map(unit);
        left.iter().filter(|other| topology.get(other).map(unit) == own).count()
    };
    rest.sort_by_key(|cpu| (crowd(cpu, |seat| seat.socket), crowd(cpu, |seat| seat.core), *cpu));
    let missing = number - taken.len();
    taken.extend(rest.into_iter().take(missing));
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sockets of two cores of two threads each; the threads of a core are N and N+4.
    fn machine() -> Topology {
        (0..8).map(|cpu| (cpu, Seat { numa: cpu % 4 / 2, socket: cpu % 4 / 2, core: cpu % 4 })).collect()
    }

    #[test]
    fn sets_are_read_and_written() {
        for text in ["", "0", "0-3", "0-1,3,7-9"] {
            assert_eq!(format(&parse(text).expect(text)), text);
        }
        assert_eq!(parse("a"), None);
    }

    #[test]
    fn whole_sockets_and_cores_are_taken_first() {
        let check = |available: &str, number, expected: &str| {
            let taken = take(&parse(available).expect("a set"), number, &machine());
            assert_eq!(taken.map(|taken| format(&taken)).as_deref(), Some(expected), "{number} of {available}");
        };
        check("0-7", 4, "0-1,4-5");
        check("0-7", 2, "0,4");
        check("1-7", 2, "1,5");
        check("0-7", 3, "0-1,4");
        check("1-7", 5, "2-4,6-7");
        assert_eq!(take(&parse("0-1").expect("a set"), 3, &machine()), None);
    }

    #[test]
    fn the_machine_is_read() {
        assert!(!topology(Path::new("/sys/devices/system")).is_empty());
    }
}
