//! What is told of levels, queues and those who wait, for people who look for the reason.
//! See <https://kubernetes.io/docs/reference/debug-cluster/flow-control/>.

use skiff_base::clock::rfc3339_micro;

use super::Flows;

/// A column is at least this wide.
const LEAST_WIDTH: usize = 8;

/// The text of one of the three pages.
pub fn dump(flows: &Flows, page: &str, with_details: bool) -> Option<String> {
    match page {
        "dump_priority_levels" => Some(levels(flows)),
        "dump_queues" => Some(queues(flows)),
        "dump_requests" => Some(requests(flows, with_details)),
        _ => None,
    }
}

fn levels(flows: &Flows) -> String {
    let head = ["PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests"];
    let rows = flows.levels().into_iter().map(|level| {
        level.look(|set| {
            let active = set.queues().iter().filter(|queue| !queue.waiting.is_empty()).count();
            let (executing, waiting) = set.counts();
            let idle = executing + waiting == 0;
            vec![
                level.name.clone(),
                active.to_string(),
                idle.to_string(),
                "false".to_owned(),
                waiting.to_string(),
                executing.to_string(),
            ]
        })
    });
    table(&head, rows.collect())
}

fn queues(flows: &Flows) -> String {
    let head = [
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ];
    let mut rows = Vec::new();
    for level in flows.levels() {
        level.look(|set| {
            rows.extend(set.queues().iter().enumerate().map(|(index, queue)| {
                let first: u32 = queue.waiting.iter().map(|waiting| waiting.width.first).sum();
                vec![
                    level.name.clone(),
                    index.to_string(),
                    queue.waiting.len().to_string(),
                    queue.executing.to_string(),
                    queue.seats.to_string(),
                    format!("{:.8}ss", queue.next),
                    first.to_string(),
                    queue.waiting_seats().to_string(),
                    format!("{:.8}ss", queue.waiting_seconds()),
                ]
            }));
        });
    }
    table(&head, rows)
}

fn requests(flows: &Flows, with_details: bool) -> String {
    let mut head = vec![
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher",
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
    ];
    if with_details {
        head.extend(["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"]);
    }
    let mut rows = Vec::new();
    for level in flows.levels() {
        level.look(|set| {
            for (index, queue) in set.queues().iter().enumerate() {
                for (place, waiting) in queue.waiting.iter().enumerate() {
                    let asker = &waiting.payload.asker;
                    let mut row = vec![
                        level.name.clone(),
                        asker.flow.0.schema.clone(),
                        index.to_string(),
                        place.to_string(),
                        asker.distinguisher.clone(),
                        rfc3339_micro(asker.arrived),
                        waiting.width.first.to_string(),
                        waiting.width.last.to_string(),
                        format!("{:?}", waiting.width.after).replace("0ns", "0s"),
                    ];
                    if with_details {
                        let info = &asker.info;
                        let version = [info.group.as_str(), info.version.as_str()];
                        let version = if info.group.is_empty() { version[1].to_owned() } else { version.join("/") };
                        let shown = [&asker.user, &info.verb, &info.path, &info.namespace, &info.name, &version];
                        row.extend(shown.into_iter().chain([&info.resource, &info.subresource]).cloned());
                    }
                    rows.push(row);
                }
            }
        });
    }
    table(&head, rows)
}

/// Columns under each other, with commas between.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut all = vec![head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    all.extend(rows);
    let width = |column: usize| {
        let widest = all.iter().map(|row| row[column].chars().count() + 2).max().unwrap_or(0);
        widest.max(LEAST_WIDTH)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in &all {
        let (last, cells) = row.split_last().map_or(("", &row[..0]), |(last, cells)| (last.as_str(), cells));
        for (cell, width) in cells.iter().zip(&widths) {
            text.push_str(&format!("{:width$}", format!("{cell},")));
        }
        text.push_str(last);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_upstreams() {
        let rows = vec![vec!["a".to_owned(), "long enough".to_owned(), "c".to_owned()]];
        assert_eq!(table(&["A", "B", "C"], rows), "A,      B,           C\na,      long enough, c\n");
    }
}
