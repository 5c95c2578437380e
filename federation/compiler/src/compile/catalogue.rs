//! What peers say they export: hostile until checked, then indexed by service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portolan_model::declared::PeerSpec;
use portolan_model::service::AFFINITY_SECONDS;
use portolan_model::sharing::{
    CATALOGUE_ENTRIES_MAX, CatalogueEntry, ENTRY_HOSTS_MAX, ENTRY_IDENTITIES_MAX,
    ENTRY_LOCALITIES_MAX, ENTRY_PORTS_MAX,
};
use portolan_model::{ClusterName, IdentityKind, ServiceKey, ServiceKind, SessionAffinity};

use super::change::RefusedEntry;

/// The most refusals that are remembered for a peer, so that its problems can name them.
const REFUSALS_MAX: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Catalogues {
    by_peer: BTreeMap<ClusterName, Catalogue>,
    /// Which peers offer a service.
    by_service: BTreeMap<ServiceKey, BTreeSet<ClusterName>>,
}

#[derive(Debug, Default)]
struct Catalogue {
    accepted: BTreeMap<ServiceKey, Arc<CatalogueEntry>>,
    refused: BTreeMap<ServiceKey, String>,
}

/// What a catalogue message did.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Services whose entry changed.
    pub(super) touched: BTreeSet<ServiceKey>,
    pub(super) refused: Vec<RefusedEntry>,
}

impl Catalogues {
    /// What each peer offers of a service.
    pub(super) fn offers(
        &self,
        key: &ServiceKey,
    ) -> impl Iterator<Item = (&ClusterName, &CatalogueEntry)> {
        let peers = self.by_service.get(key).into_iter().flatten();
        peers.filter_map(|peer| {
            let entry = self.by_peer.get(peer)?.accepted.get(key)?;
            Some((peer, &**entry))
        })
    }

    /// The services that a peer offers.
    pub(super) fn services_of(&self, peer: &ClusterName) -> BTreeSet<ServiceKey> {
        let catalogue = self.by_peer.get(peer);
        catalogue
            .map(|catalogue| catalogue.accepted.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// How many services a peer offers.
    pub(super) fn count(&self, peer: &ClusterName) -> usize {
        self.by_peer
            .get(peer)
            .map_or(0, |catalogue| catalogue.accepted.len())
    }

    /// Which of a peer's services were refused, and why.
    pub(super) fn refusals(&self, peer: &ClusterName) -> impl Iterator<Item = (&ServiceKey, &str)> {
        self.by_peer
            .get(peer)
            .into_iter()
            .flat_map(|catalogue| &catalogue.refused)
            .map(|(key, reason)| (key, reason.as_str()))
    }

    /// Takes in a message of an admitted peer. A refused entry also takes its predecessor away:
    /// what a peer says last is what counts.
    pub(super) fn take(
        &mut self,
        peer: &ClusterName,
        spec: &PeerSpec,
        full: bool,
        upserts: Vec<CatalogueEntry>,
        removals: Vec<ServiceKey>,
    ) -> Taken {
        let mut taken = Taken::default();
        let mut gone: BTreeSet<ServiceKey> = removals.into_iter().collect();
        if full {
            if let Some(catalogue) = self.by_peer.get_mut(peer) {
                catalogue.refused.clear();
            }
            let kept: BTreeSet<&ServiceKey> = upserts.iter().map(|entry| &entry.key).collect();
            let missing = self.services_of(peer).into_iter();
            gone.extend(missing.filter(|key| !kept.contains(key)));
        }
        for key in gone {
            self.remove(peer, &key, &mut taken.touched);
        }
        for entry in upserts {
            let known = self.count(peer);
            let verdict = judge(&entry, spec).and_then(|()| {
                let new = !self.offers(&entry.key).any(|(offering, _)| offering == peer);
                if new && known >= CATALOGUE_ENTRIES_MAX {
                    return Err(format!(
                        "the peer already offers {CATALOGUE_ENTRIES_MAX} services, which is the most that is accepted"
                    ));
                }
                Ok(())
            });
            match verdict {
                Ok(()) => self.insert(peer, entry, &mut taken.touched),
                Err(reason) => self.refuse(peer, entry.key, reason, &mut taken),
            }
        }
        taken
    }

    /// Forgets all that a peer said. Returns the services that this touches.
    pub(super) fn forget(&mut self, peer: &ClusterName) -> BTreeSet<ServiceKey> {
        let touched = self.services_of(peer);
        for key in &touched {
            self.unlink(peer, key);
        }
        self.by_peer.remove(peer);
        touched
    }

    /// Judges again what was accepted, after the peer's declaration changed.
    pub(super) fn judge_again(&mut self, peer: &ClusterName, spec: &PeerSpec) -> Taken {
        let mut taken = Taken::default();
        let Some(catalogue) = self.by_peer.get(peer) else {
            return taken;
        };
        let bad: Vec<_> = catalogue
            .accepted
            .iter()
            .filter_map(|(key, entry)| Some((key.clone(), judge(entry, spec).err()?)))
            .collect();
        for (key, reason) in bad {
            self.refuse(peer, key, reason, &mut taken);
        }
        taken
    }

    fn insert(
        &mut self,
        peer: &ClusterName,
        entry: CatalogueEntry,
        touched: &mut BTreeSet<ServiceKey>,
    ) {
        let catalogue = self.by_peer.entry(peer.clone()).or_default();
        catalogue.refused.remove(&entry.key);
        if catalogue
            .accepted
            .get(&entry.key)
            .is_some_and(|known| **known == entry)
        {
            return;
        }
        let key = entry.key.clone();
        catalogue.accepted.insert(key.clone(), Arc::new(entry));
        let offering = self.by_service.entry(key.clone()).or_default();
        offering.insert(peer.clone());
        touched.insert(key);
    }

    fn refuse(&mut self, peer: &ClusterName, key: ServiceKey, reason: String, taken: &mut Taken) {
        self.remove(peer, &key, &mut taken.touched);
        let refused = &mut self.by_peer.entry(peer.clone()).or_default().refused;
        if refused.len() < REFUSALS_MAX || refused.contains_key(&key) {
            refused.insert(key.clone(), reason.clone());
        }
        taken.refused.push(RefusedEntry {
            peer: peer.clone(),
            service: Some(key),
            reason,
        });
    }

    fn remove(&mut self, peer: &ClusterName, key: &ServiceKey, touched: &mut BTreeSet<ServiceKey>) {
        let Some(catalogue) = self.by_peer.get_mut(peer) else {
            return;
        };
        catalogue.refused.remove(key);
        if catalogue.accepted.remove(key).is_some() {
            self.unlink(peer, key);
            touched.insert(key.clone());
        }
    }

    fn unlink(&mut self, peer: &ClusterName, key: &ServiceKey) {
        if let Some(offering) = self.by_service.get_mut(key) {
            offering.remove(peer);
            if offering.is_empty() {
                self.by_service.remove(key);
            }
        }
    }
}

/// Whether an entry is bounded, consistent in itself, and names only identities that its peer may
/// name.
fn judge(entry: &CatalogueEntry, peer: &PeerSpec) -> Result<(), String> {
    within("ports", entry.ports.len(), ENTRY_PORTS_MAX)?;
    within("localities", entry.localities.len(), ENTRY_LOCALITIES_MAX)?;
    within("identities", entry.identities.len(), ENTRY_IDENTITIES_MAX)?;
    within("host names", entry.hosts.len(), ENTRY_HOSTS_MAX)?;
    for identity in &entry.identities {
        if identity.trust_domain() != &peer.trust_domain {
            return Err(format!(
                "it names the identity {identity}, but this peer may only name identities of its own trust domain `{}`",
                peer.trust_domain
            ));
        }
        if !matches!(identity.kind(), IdentityKind::Workload { .. }) {
            return Err(format!(
                "it names the identity {identity}, which is no workload's: spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
            ));
        }
    }
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for port in &entry.ports {
        if port.number == 0 {
            return Err("it has a port with the number 0".to_owned());
        }
        if !numbers.insert((port.protocol.transport(), port.number)) {
            return Err(format!(
                "it has the port {}/{} twice",
                port.number,
                port.protocol.transport()
            ));
        }
        if !names.insert(&port.name) {
            let name = port.name.as_ref().map_or("", |name| name.as_str());
            return Err(format!("it has two ports with the name `{name}`"));
        }
    }
    let mut places = BTreeSet::new();
    for place in &entry.localities {
        if place.ready > place.total {
            return Err(format!(
                "it counts {} ready endpoints of {} in the region {}",
                place.ready, place.total, place.locality.region
            ));
        }
        if !places.insert(&place.locality) {
            return Err(format!(
                "it counts the endpoints of the region {} twice",
                place.locality.region
            ));
        }
    }
    if let SessionAffinity::ClientIp { timeout_seconds } = entry.affinity
        && !AFFINITY_SECONDS.contains(&timeout_seconds)
    {
        return Err(format!(
            "its session affinity has a timeout of {timeout_seconds} s; 1 to {} are accepted",
            AFFINITY_SECONDS.end()
        ));
    }
    if entry.kind == ServiceKind::Virtual && !entry.hosts.is_empty() {
        return Err("it lists host names, which only a headless service has".to_owned());
    }
    Ok(())
}

fn within(what: &str, count: usize, most: usize) -> Result<(), String> {
    if count > most {
        return Err(format!(
            "it has {count} {what}; at most {most} are accepted"
        ));
    }
    Ok(())
}
