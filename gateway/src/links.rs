//! Which link carries the next tunnel, and when a link is suspect or dead. Pure: facts in,
//! decisions out; the live links are in [`crate::table`].

use std::time::Duration;

/// Open tunnels that weigh as much as one more round-trip time.
const LOAD_UNIT: f64 = 16.0;
/// Round-trip times below this one count as equal, so that noise does not decide.
const RTT_FLOOR: Duration = Duration::from_millis(1);
/// A link of another worker costs a change of thread for every packet: it must be this much better.
const FOREIGN_PENALTY: f64 = 2.0;
/// How long a peer may hold back an acknowledgement (QUIC's `max_ack_delay`).
const ACK_DELAY: Duration = Duration::from_millis(25);
/// Probe timeouts without an answer after which a link is dead.
const PROBES_TO_DEATH: u32 = 3;
/// A reported round-trip time is stale once it differs by more than this share.
const RTT_CHANGE: f64 = 0.2;
/// How long a tunnel waits for a link: some dials, and less than sidecars wait for a connection.
const LINK_WAIT: Duration = Duration::from_secs(2);
/// Tunnels of a worker that wait for a link at a time; more are refused at once.
pub(crate) const WAITING_MAX: usize = 1_024;
/// The first wait before dialling again.
const REDIAL_FIRST: Duration = Duration::from_millis(100);
/// The longest wait before dialling again.
const REDIAL_MAX: Duration = Duration::from_secs(2);

/// What is known of one link when a tunnel needs one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LinkFacts {
    /// The link's number, unique in the process.
    pub(crate) id: u64,
    /// Whether the asking worker drives it.
    pub(crate) own: bool,
    /// Smoothed round-trip time.
    pub(crate) rtt: Duration,
    /// Tunnels open on it, in both directions.
    pub(crate) open: u32,
    /// How many tunnels it may carry.
    pub(crate) open_max: u32,
    /// Whether the peer said that it takes no more tunnels.
    pub(crate) draining: bool,
    /// Time since the last packet from the peer, as far as its worker was awake.
    pub(crate) silent: Duration,
    /// How long it may be silent.
    pub(crate) dead_after: Duration,
}

/// What a link's silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Packets arrive.
    Live,
    /// Keep-alives are overdue: take another link if there is one.
    Suspect,
    /// Silent for too long: close it.
    Dead,
}

/// Why no link can take a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoLink {
    /// There is none, or all are dead or draining.
    Unreachable,
    /// Every usable link is full.
    Full,
}

/// Chooses the link for the next tunnel: the lowest round-trip time × (1 + load), links that are
/// not suspect first, links of the asking worker preferred. `tried` links are left out.
///
/// # Errors
/// [`NoLink`] says why there is none.
pub(crate) fn choose(links: &[LinkFacts], tried: &[u64]) -> Result<u64, NoLink> {
    let usable: Vec<(&LinkFacts, Standing)> = links
        .iter()
        .filter(|link| !link.draining && !tried.contains(&link.id))
        .map(|link| (link, standing(link.silent, link.dead_after)))
        .filter(|(_, standing)| *standing != Standing::Dead)
        .collect();
    if usable.is_empty() {
        return Err(NoLink::Unreachable);
    }
    usable
        .into_iter()
        .filter(|(link, _)| link.open < link.open_max)
        .min_by(|(a, a_standing), (b, b_standing)| {
            a_standing
                .cmp(b_standing)
                .then_with(|| cost(a).total_cmp(&cost(b)))
                .then_with(|| a.id.cmp(&b.id))
        })
        .map(|(link, _)| link.id)
        .ok_or(NoLink::Full)
}

/// What a silence of `silent` means on a link that is dead after `dead_after`.
pub(crate) fn standing(silent: Duration, dead_after: Duration) -> Standing {
    if silent >= dead_after {
        Standing::Dead
    } else if silent >= dead_after / 2 {
        Standing::Suspect
    } else {
        Standing::Live
    }
}

/// How long a link may be silent whose smoothed round-trip time is `rtt`: `max(3 × PTO, at_least)`.
pub(crate) fn dead_after(rtt: Duration, at_least: Duration) -> Duration {
    // The variance is not known here; one more round-trip time stands for it.
    let pto = rtt * 2 + ACK_DELAY;
    (pto * PROBES_TO_DEATH).max(at_least)
}

/// How long a tunnel waits for a link when there is none, from the moment it was asked for. A link that
/// was lost is dialled again, and to wait for it is better than to fail; but not while `elsewhere` says
/// that the caller can be served by another cluster, nor when too many wait already.
pub(crate) fn wait_for_link(elsewhere: bool, waiting: usize) -> Option<Duration> {
    (!elsewhere && waiting < WAITING_MAX).then_some(LINK_WAIT)
}

/// Whether a round-trip time is far enough from the one that was last reported to report again.
pub(crate) fn rtt_moved(reported: Duration, now: Duration) -> bool {
    let (old, new) = (reported.as_secs_f64(), now.as_secs_f64());
    (new - old).abs() > old * RTT_CHANGE
}

/// How long to wait before dialling again after `failures` in a row: 100 ms at first, doubling, at
/// most 2 s, of which `random` (0 to 1) decides the upper half.
pub(crate) fn redial_after(failures: u32, random: f64) -> Duration {
    let bound = REDIAL_FIRST
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(REDIAL_MAX);
    bound.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// How many failures in a row it makes that a link ended which lasted so long. One that ended as soon
/// as it was made is no better than none.
pub(crate) fn failures_after(failures: u32, lasted: Duration) -> u32 {
    if lasted > REDIAL_MAX {
        return 0;
    }
    failures.saturating_add(1)
}

fn cost(link: &LinkFacts) -> f64 {
    let rtt = link.rtt.max(RTT_FLOOR).as_secs_f64();
    let load = f64::from(link.open) / LOAD_UNIT;
    let penalty = if link.own { 1.0 } else { FOREIGN_PENALTY };
    rtt * (1.0 + load) * penalty
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn link(id: u64) -> LinkFacts {
        LinkFacts {
            id,
            own: true,
            rtt: Duration::from_millis(10),
            open: 0,
            open_max: 100,
            draining: false,
            silent: Duration::ZERO,
            dead_after: SECOND,
        }
    }

    fn but(id: u64, change: fn(&mut LinkFacts)) -> LinkFacts {
        let mut link = link(id);
        change(&mut link);
        link
    }

    #[test]
    fn the_table_of_choices() {
        const fn ms(ms: u64) -> Duration {
            Duration::from_millis(ms)
        }
        let far = but(1, |it| it.rtt = ms(60));
        let busy = but(1, |it| it.open = 5);
        let foreign = but(1, |it| it.own = false);
        let near_foreign = but(2, |it| it.own = false);
        let quick = but(1, |it| it.rtt = ms(1) / 2);
        let quicker = but(2, |it| it.rtt = ms(1) / 9);
        let draining = but(1, |it| it.draining = true);
        let suspect = but(1, |it| it.silent = ms(700));
        let laden = but(2, |it| it.open = 90);
        let dead = but(1, |it| it.silent = ms(1_000));
        let full = but(1, |it| it.open = 100);
        let table: [(&str, &[LinkFacts], Result<u64, NoLink>); 12] = [
            ("none", &[], Err(NoLink::Unreachable)),
            ("nearer", &[far, link(2)], Ok(2)),
            ("emptier", &[busy, link(2)], Ok(2)),
            ("own worker", &[foreign, link(2)], Ok(2)),
            ("much better elsewhere", &[far, near_foreign], Ok(2)),
            ("equal below the floor", &[quick, quicker], Ok(1)),
            ("draining", &[draining], Err(NoLink::Unreachable)),
            ("suspect is the last resort", &[suspect, laden], Ok(2)),
            ("suspect rather than none", &[suspect], Ok(1)),
            ("dead", &[dead], Err(NoLink::Unreachable)),
            ("full is not unreachable", &[full], Err(NoLink::Full)),
            ("full and another", &[full, laden], Ok(2)),
        ];
        for (name, links, expected) in table {
            assert_eq!(choose(links, &[]), expected, "{name}");
        }
        assert_eq!(choose(&[link(1), link(2)], &[1]), Ok(2));
        assert_eq!(choose(&[link(1)], &[1]), Err(NoLink::Unreachable));
    }

    #[test]
    fn silence_is_judged_by_the_round_trip_time() {
        let ms = Duration::from_millis;
        for (silent, rtt, expected) in [
            (499, 1, Standing::Live),
            (500, 1, Standing::Suspect),
            (999, 60, Standing::Suspect),
            (1_000, 60, Standing::Dead),
            (1_000, 300, Standing::Suspect),
            (1_875, 300, Standing::Dead),
        ] {
            let dead_after = dead_after(ms(rtt), SECOND);
            assert_eq!(standing(ms(silent), dead_after), expected, "{silent} {rtt}");
        }
        assert_eq!(dead_after(ms(1), ms(4_000)), ms(4_000), "as it was set");
    }

    #[test]
    fn a_tunnel_waits_for_a_link_if_nobody_else_can_serve_and_few_wait() {
        assert_eq!(wait_for_link(false, 0), Some(LINK_WAIT));
        assert_eq!(wait_for_link(true, 0), None);
        assert_eq!(wait_for_link(false, WAITING_MAX - 1), Some(LINK_WAIT));
        assert_eq!(wait_for_link(false, WAITING_MAX), None);
    }

    #[test]
    fn a_fifth_is_worth_a_report() {
        let ms = Duration::from_millis;
        assert!(!rtt_moved(ms(100), ms(119)));
        assert!(rtt_moved(ms(100), ms(121)));
        assert!(rtt_moved(ms(100), ms(79)));
        assert!(rtt_moved(ms(0), ms(1)));
    }

    #[test]
    fn dialling_slows_down_to_two_seconds() {
        let ms = Duration::from_millis;
        assert_eq!(redial_after(0, 0.0), ms(50));
        assert_eq!(redial_after(0, 1.0), ms(100));
        assert_eq!(redial_after(2, 1.0), ms(400));
        assert_eq!(redial_after(u32::MAX, 1.0), ms(2_000));
        assert_eq!(failures_after(3, ms(2_000)), 4);
        assert_eq!(failures_after(3, ms(2_001)), 0);
    }

    fn any_link() -> impl Strategy<Value = LinkFacts> {
        (
            0..20_u64,
            any::<bool>(),
            0..500_u64,
            0..110_u32,
            any::<bool>(),
            0..3_000_u64,
        )
            .prop_map(|(id, own, rtt, open, draining, silent)| LinkFacts {
                id,
                own,
                rtt: Duration::from_millis(rtt),
                open,
                open_max: 100,
                draining,
                silent: Duration::from_millis(silent),
                dead_after: dead_after(Duration::from_millis(rtt), SECOND),
            })
    }

    proptest! {
        #[test]
        fn the_choice_is_usable_and_none_means_that_nothing_was(
            links in proptest::collection::vec(any_link(), 0..12),
            tried in proptest::collection::vec(0..20_u64, 0..4),
        ) {
            let usable = |link: &LinkFacts| {
                !link.draining
                    && !tried.contains(&link.id)
                    && standing(link.silent, link.dead_after) != Standing::Dead
            };
            match choose(&links, &tried) {
                Ok(id) => prop_assert!(
                    links.iter().any(|link| link.id == id && usable(link) && link.open < 100)
                ),
                Err(NoLink::Full) => {
                    prop_assert!(links.iter().any(usable));
                    prop_assert!(links.iter().filter(|link| usable(link)).all(|link| link.open >= 100));
                }
                Err(NoLink::Unreachable) => prop_assert!(!links.iter().any(usable)),
            }
        }

        #[test]
        fn more_load_never_attracts(links in proptest::collection::vec(any_link(), 1..8), at in 0..8_usize) {
            let mut links: Vec<LinkFacts> = links
                .into_iter()
                .enumerate()
                .map(|(id, link)| LinkFacts { id: id as u64, ..link })
                .collect();
            let at = at % links.len();
            let before = choose(&links, &[]);
            links[at].open += 1;
            let after = choose(&links, &[]);
            prop_assert!(before == Ok(at as u64) || after != Ok(at as u64));
        }
    }
}
