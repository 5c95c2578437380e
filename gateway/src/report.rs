//! Tells the control plane and the metrics how the links stand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_api::presence::{Links, PeerLinks};
use portolan_model::ClusterName;
use portolan_runtime::presence::PresenceHandle;
use tokio::time::interval;

use crate::links::rtt_moved;
use crate::table::PeerSummary;
use crate::worker::Shared;

/// How often round-trip times are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Round-trip times that hardly moved are reported this often.
const REPORT_EVERY: Duration = Duration::from_secs(5);

type Summaries = BTreeMap<ClusterName, PeerSummary>;

/// Reports until dropped: every link that comes or goes at once, round-trip times when they moved.
pub(crate) async fn report(shared: Arc<Shared>, presence: PresenceHandle) {
    let mut links_changed = shared.table.subscribe();
    let mut peers_changed = shared.changed.clone();
    let mut look = interval(LOOK_EVERY);
    let mut reported: Option<(Summaries, Instant)> = None;
    let mut shown = BTreeSet::new();
    loop {
        let summaries = summarise(&shared);
        show(&shared, &summaries, &mut shown);
        let due = reported
            .as_ref()
            .is_none_or(|(last, at)| at.elapsed() >= REPORT_EVERY || differs(last, &summaries));
        if due {
            presence.links(message(&summaries));
            reported = Some((summaries, Instant::now()));
        }
        tokio::select! {
            changed = links_changed.changed() => if changed.is_err() { return },
            changed = peers_changed.changed() => if changed.is_err() { return },
            _ = look.tick() => {}
        }
    }
}

fn summarise(shared: &Shared) -> Summaries {
    let snapshot = shared.snapshot.load();
    let peers = snapshot.mesh.iter().flat_map(|mesh| &mesh.peers);
    peers
        .map(|peer| (peer.name.clone(), shared.table.summary(&peer.name)))
        .collect()
}

fn differs(last: &Summaries, now: &Summaries) -> bool {
    last.len() != now.len()
        || now.iter().any(|(peer, now)| {
            last.get(peer).is_none_or(|last| {
                last.live != now.live
                    || rtt_moved(last.rtt.unwrap_or_default(), now.rtt.unwrap_or_default())
            })
        })
}

fn show(shared: &Shared, summaries: &Summaries, shown: &mut BTreeSet<ClusterName>) {
    for gone in shown.iter().filter(|peer| !summaries.contains_key(*peer)) {
        shared.metrics.forget(gone);
    }
    *shown = summaries.keys().cloned().collect();
    for (peer, summary) in summaries {
        let rtt_s = summary.rtt.map(|rtt| rtt.as_secs_f64());
        shared.metrics.links(peer, summary.live, rtt_s);
    }
}

fn message(summaries: &Summaries) -> Links {
    let peers = summaries.iter().map(|(peer, summary)| PeerLinks {
        peer: peer.to_string(),
        live: summary.live,
        rtt_us: summary
            .rtt
            .map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)),
        lost_packets: summary.lost,
        sent_packets: summary.sent,
    });
    Links {
        peers: peers.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summaries(live: u32, rtt_ms: u64) -> Summaries {
        let summary = PeerSummary {
            live,
            rtt: (live > 0).then(|| Duration::from_millis(rtt_ms)),
            ..PeerSummary::default()
        };
        [("eu-west".parse().unwrap(), summary)].into()
    }

    #[test]
    fn ups_downs_and_moves_are_news() {
        let table = [
            (summaries(1, 10), summaries(1, 11), false),
            (summaries(1, 10), summaries(1, 13), true),
            (summaries(1, 10), summaries(2, 10), true),
            (summaries(1, 10), summaries(0, 0), true),
            (summaries(1, 10), Summaries::new(), true),
            (Summaries::new(), summaries(0, 0), true),
        ];
        for (last, now, news) in table {
            assert_eq!(differs(&last, &now), news, "{last:?} {now:?}");
        }
    }
}
