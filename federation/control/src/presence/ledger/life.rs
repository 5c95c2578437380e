//! The life of one name: which streams speak for it, which of them counts, and until when what was
//! said is believed. Several streams may speak for one name, when a proxy was restarted before its
//! old process was gone, or when two were given one name by mistake: the newest counts, and the next
//! one when it ends.

use std::time::Duration;

use super::{FAREWELL_KEPT, GRACE, LEASE_KEPT, START_GRACE, StreamId};

/// How long two streams may speak for one name before that is worth a warning: a broken connection's
/// end is noticed sooner.
pub(super) const OVERLAP_MAX: Duration = Duration::from_secs(10);

/// See the module's description. `T` is what its streams say.
#[derive(Debug)]
pub(super) struct Life<T> {
    /// The open streams, the oldest first.
    claims: Vec<Claim<T>>,
    /// The stream that counts.
    holder: Option<StreamId>,
    pub(super) alive: bool,
    /// Until when `alive` is believed although nobody confirms it.
    believed_until: Option<Duration>,
    /// Since when nobody holds it.
    vanished: Option<Duration>,
    /// How long it is kept after that.
    kept: Duration,
    overlap: Overlap,
    /// What was last said by a stream that counted.
    pub(super) facts: T,
}

/// One open stream that speaks for a name.
#[derive(Debug)]
pub(super) struct Claim<T> {
    stream: StreamId,
    /// It said that it is about to stop.
    pub(super) draining: bool,
    pub(super) said: T,
}

/// Whether several streams speak for one name that are not about to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overlap {
    None,
    Since(Duration),
    /// Somebody was warned.
    Told,
}

impl<T: Clone> Life<T> {
    /// One that nobody speaks for yet.
    pub(super) fn found(now: Duration, alive: bool, facts: T) -> Self {
        Self {
            claims: Vec::new(),
            holder: None,
            alive,
            believed_until: Some(now + START_GRACE),
            vanished: Some(now),
            kept: LEASE_KEPT,
            overlap: Overlap::None,
            facts,
        }
    }

    /// A stream begins to speak for it. True when that one counts now. Streams may arrive in another order
    /// than they were opened.
    pub(super) fn opened(&mut self, now: Duration, stream: StreamId, said: T) -> bool {
        let claim = Claim {
            stream,
            draining: false,
            said,
        };
        let place = self.claims.partition_point(|other| other.stream < stream);
        self.claims.insert(place, claim);
        self.elect(now)
    }

    /// The stream is about to stop. True when another one counts now, or it counted and nobody follows.
    pub(super) fn draining(&mut self, now: Duration, stream: StreamId) -> bool {
        match self.claim(stream) {
            Some(claim) => claim.draining = true,
            None => return false,
        }
        let elected = self.elect(now);
        if self.holder == Some(stream) {
            self.kept = FAREWELL_KEPT;
        }
        elected || self.holder == Some(stream)
    }

    /// The stream ended. True when another one counts now.
    pub(super) fn closed(&mut self, now: Duration, stream: StreamId) -> bool {
        self.claims.retain(|claim| claim.stream != stream);
        self.elect(now) && self.holder.is_some()
    }

    /// What the stream said, as long as it is open.
    pub(super) fn claim(&mut self, stream: StreamId) -> Option<&mut Claim<T>> {
        self.claims.iter_mut().find(|claim| claim.stream == stream)
    }

    /// The stream that counts.
    pub(super) fn holder(&self) -> Option<&Claim<T>> {
        let holder = self.holder?;
        self.claims.iter().find(|claim| claim.stream == holder)
    }

    pub(super) fn is_held_by(&self, stream: StreamId) -> bool {
        self.holder == Some(stream)
    }

    /// Somebody who counts said whether it is alive. True when that is news.
    pub(super) fn confirm(&mut self, alive: bool) -> bool {
        self.believed_until = None;
        std::mem::replace(&mut self.alive, alive) != alive
    }

    /// Ends what was believed too long. True when it was alive until now.
    pub(super) fn lapses(&mut self, now: Duration) -> bool {
        if self.believed_until.is_none_or(|until| until > now) {
            return false;
        }
        self.believed_until = None;
        std::mem::replace(&mut self.alive, false)
    }

    /// Whether several speak for it for too long. True once.
    pub(super) fn is_disputed(&mut self, now: Duration) -> bool {
        match self.overlap {
            Overlap::Since(since) if since + OVERLAP_MAX <= now => {
                self.overlap = Overlap::Told;
                true
            }
            Overlap::Since(_) | Overlap::None | Overlap::Told => false,
        }
    }

    pub(super) fn is_over(&self, now: Duration) -> bool {
        self.vanished.is_some_and(|since| since + self.kept <= now)
    }

    /// When something of this lapses.
    pub(super) fn next(&self) -> Option<Duration> {
        let over = self.vanished.map(|since| since + self.kept);
        let disputed = match self.overlap {
            Overlap::Since(since) => Some(since + OVERLAP_MAX),
            Overlap::None | Overlap::Told => None,
        };
        let moments = self.believed_until.into_iter().chain(over).chain(disputed);
        moments.min()
    }

    /// Lets the newest stream count that is not about to stop. True when that is another than before.
    fn elect(&mut self, now: Duration) -> bool {
        let staying = self.claims.iter().filter(|claim| !claim.draining);
        self.overlap = match (staying.count(), self.overlap) {
            (0 | 1, _) => Overlap::None,
            (_, Overlap::None) => Overlap::Since(now),
            (_, overlap) => overlap,
        };
        let staying = self.claims.iter().rfind(|claim| !claim.draining);
        let elected = staying.or(self.claims.last());
        let holder = elected.map(|claim| claim.stream);
        if holder == self.holder {
            return false;
        }
        match elected {
            Some(claim) if claim.draining => self.kept = FAREWELL_KEPT,
            Some(_) => self.kept = LEASE_KEPT,
            None => {}
        }
        self.holder = holder;
        self.vanished = holder.is_none().then_some(now);
        self.believed_until = Some(now + GRACE);
        true
    }
}
