//! Who is at fault when a way to another cluster fails, and when another way is tried beside it.
//!
//! A tunnel to another cluster has an own gateway, a link, a gateway of the peer, and a sidecar there on
//! its way. Silence looks the same whoever of them is dead, but each answer proves that all on its way
//! live. So nobody is blamed for what somebody else may have done while an answer says otherwise.

use std::time::Duration;

use portolan_model::Reason;

/// What a handshake through a gateway may take besides round trips before the next gateway is tried
/// beside it: the work of four processes on a machine that does other things.
const HEDGE_WORK: Duration = Duration::from_millis(150);
/// Round trips before the next gateway is tried: the handshake takes one.
const HEDGE_ROUND_TRIPS: u32 = 2;
/// The round trip that is assumed where none is known.
const RTT_ASSUMED: Duration = Duration::from_millis(100);
/// What a try at another cluster may take besides round trips while a third one could serve: time for
/// the link to be found dead, or for a second gateway to get through.
const PATIENCE_WORK: Duration = Duration::from_millis(600);
const PATIENCE_ROUND_TRIPS: u32 = 3;
/// A proxy answers at once when it is asked whether it lives, but its machine may be busy.
const SILENT: Duration = Duration::from_millis(1_750);
/// Round trips on top of that: the question or the answer may be lost, and sent again.
const SILENT_ROUND_TRIPS: u32 = 6;

/// How long a handshake through one gateway goes on alone: after that, the next one is tried beside it.
#[must_use]
pub fn hedge_after(rtt: Option<Duration>) -> Duration {
    HEDGE_WORK + rtt.unwrap_or(RTT_ASSUMED) * HEDGE_ROUND_TRIPS
}

/// How long a request waits for a connection to another cluster, `limit` at most, if `alternative` says
/// that somebody else could serve it.
#[must_use]
pub fn patience(rtt: Option<Duration>, alternative: bool, limit: Duration) -> Duration {
    if !alternative {
        return limit;
    }
    limit.min(PATIENCE_WORK + rtt.unwrap_or(RTT_ASSUMED) * PATIENCE_ROUND_TRIPS)
}

/// What came of a handshake through one own gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// The other sidecar answered.
    Through,
    /// The gateway did not accept the connection.
    NotAccepted,
    /// It was refused by alert.
    Refused(Reason),
    /// The connection ended without a word.
    Broken,
    /// The one who answered is not who it should be, or does not accept us.
    Final,
    /// It goes on, for so long already.
    Pending(Duration),
}

/// What a passage says of the gateway that it went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayRecord {
    /// It does its work.
    Good,
    /// It does not: others come first for a while.
    Silent,
    /// Nothing.
    Unknown,
}

/// What is put on a gateway's record. That another gateway got `through` proves that it was not the
/// other cluster which kept silent; `hedged` is how long each goes on alone.
#[must_use]
pub fn gateway(passage: Passage, through: bool, hedged: Duration) -> GatewayRecord {
    match passage {
        Passage::Through | Passage::Refused(_) | Passage::Final => GatewayRecord::Good,
        Passage::NotAccepted => GatewayRecord::Silent,
        Passage::Pending(waited) if through && waited >= hedged => GatewayRecord::Silent,
        Passage::Pending(_) | Passage::Broken => GatewayRecord::Unknown,
    }
}

/// Whether the next gateway may do better after this one failed so: its links may be down, or it was
/// just about to stop.
#[must_use]
pub fn elsewhere(passage: Passage) -> bool {
    match passage {
        Passage::NotAccepted | Passage::Broken => true,
        Passage::Refused(reason) => matches!(
            reason,
            Reason::NoHealthyUpstream
                | Reason::PeerUnreachable
                | Reason::Overloaded
                | Reason::Draining
                | Reason::NotReady
        ),
        Passage::Through | Passage::Final | Passage::Pending(_) => false,
    }
}

/// How long a connection with a request under way may say nothing before it counts as dead, if whoever
/// is at its end is asked for a sign of life in between. `rtt` is `None` within the cluster.
#[must_use]
pub fn silent_after(rtt: Option<Duration>) -> Duration {
    SILENT + rtt.unwrap_or_default() * SILENT_ROUND_TRIPS
}

/// Whether a connection that could not be had, after so much waiting, is the cluster's fault. `answered`
/// is the time since the cluster's last answer on any connection: if it answers, it is there, and only
/// this way to it is not. A refusal is an answer itself.
#[must_use]
pub fn cluster_for_dial(reason: Reason, waited: Duration, answered: Option<Duration>) -> bool {
    let hung = matches!(reason, Reason::Timeout | Reason::ConnectFailed);
    !(hung && meanwhile(waited, answered))
}

/// Who is left alone because a tunnel that stood fell silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// The own gateway: every connection through it.
    Gateway,
    /// The other cluster: its answer counts as failed.
    Cluster,
    /// This connection and nobody else.
    Connection,
}

/// Blames somebody for a tunnel that has been `silent` for so long, by the time since the own gateway on
/// its way, and the cluster at its end, answered anything. If neither did meanwhile, it costs little to
/// blame the gateway: the next connection takes another one if there is one, and tells of the cluster.
#[must_use]
pub fn silence(
    silent: Duration,
    gateway_answered: Option<Duration>,
    cluster_answered: Option<Duration>,
) -> Silence {
    let answers = |answered| meanwhile(silent, answered);
    match (answers(gateway_answered), answers(cluster_answered)) {
        (false, _) => Silence::Gateway,
        (true, false) => Silence::Cluster,
        (true, true) => Silence::Connection,
    }
}

/// Whether something was heard in the second half of that time. What was heard in the first half may
/// have been under way when everything fell silent.
fn meanwhile(silent: Duration, heard: Option<Duration>) -> bool {
    heard.is_some_and(|ago| ago < silent / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_next_gateway_has_time_before_the_cluster_is_given_up() {
        assert_eq!(hedge_after(Some(ms(60))), ms(270));
        assert_eq!(hedge_after(None), ms(350));
        assert_eq!(patience(Some(ms(60)), true, ms(5_000)), ms(780));
        assert_eq!(patience(Some(ms(60)), false, ms(5_000)), ms(5_000));
        assert_eq!(patience(Some(ms(60)), true, ms(500)), ms(500));
        for rtt in [0, 1, 20, 60, 150, 400, 1_000].map(|rtt| Some(ms(rtt))) {
            let left = patience(rtt, true, ms(60_000)) - hedge_after(rtt);
            assert!(left >= ms(400) + rtt.unwrap(), "{rtt:?}: {left:?}");
        }
    }

    #[test]
    fn who_is_on_record_after_a_race() {
        let hedged = ms(270);
        let record = |passage| [false, true].map(|through| gateway(passage, through, hedged));
        use GatewayRecord::{Good, Silent, Unknown};
        for (passage, expected) in [
            (Passage::Through, [Good, Good]),
            (Passage::Refused(Reason::NoHealthyUpstream), [Good, Good]),
            (Passage::Refused(Reason::NotExported), [Good, Good]),
            (Passage::Final, [Good, Good]),
            (Passage::NotAccepted, [Silent, Silent]),
            (Passage::Broken, [Unknown, Unknown]),
            (Passage::Pending(ms(269)), [Unknown, Unknown]),
            (Passage::Pending(ms(270)), [Unknown, Silent]),
        ] {
            assert_eq!(record(passage), expected, "{passage:?}");
        }
    }

    #[test]
    fn what_another_gateway_could_do_better() {
        for (passage, expected) in [
            (Passage::NotAccepted, true),
            (Passage::Broken, true),
            (Passage::Refused(Reason::NoHealthyUpstream), true),
            (Passage::Refused(Reason::PeerUnreachable), true),
            (Passage::Refused(Reason::Draining), true),
            (Passage::Refused(Reason::NotExported), false),
            (Passage::Refused(Reason::Denied), false),
            (Passage::Refused(Reason::BadRequest), false),
            (Passage::Final, false),
            (Passage::Through, false),
            (Passage::Pending(ms(9_000)), false),
        ] {
            assert_eq!(elsewhere(passage), expected, "{passage:?}");
        }
    }

    #[test]
    fn a_cluster_that_answers_is_not_blamed_for_a_way_that_hangs() {
        for (reason, unheard, heard) in [
            (Reason::Timeout, true, false),
            (Reason::ConnectFailed, true, false),
            (Reason::NoHealthyUpstream, true, true),
            (Reason::PeerUnreachable, true, true),
            (Reason::IdentityMismatch, true, true),
        ] {
            let blamed = |answered| cluster_for_dial(reason, ms(800), answered);
            assert_eq!(
                [blamed(None), blamed(Some(ms(10)))],
                [unheard, heard],
                "{reason}"
            );
            assert!(blamed(Some(ms(400))), "that may have been its last word");
        }
    }

    /// One row per death: what else is heard from, and who is blamed.
    #[test]
    fn whom_silence_is_blamed_on() {
        let (now, before) = (Some(ms(20)), Some(ms(1_990)));
        for (dead, gateway, cluster, expected) in [
            ("one of two own gateways", before, now, Silence::Gateway),
            ("the only own gateway", before, before, Silence::Gateway),
            ("the peer, all of it", now, before, Silence::Cluster),
            ("one sidecar of the peer", now, now, Silence::Connection),
            ("nobody was heard yet", None, None, Silence::Gateway),
        ] {
            assert_eq!(silence(ms(2_000), gateway, cluster), expected, "{dead}");
        }
        assert_eq!(silent_after(None), ms(1_750));
        assert_eq!(silent_after(Some(ms(60))), ms(2_110));
    }
}
