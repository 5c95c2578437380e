//! Taking changes in: each is noted, and what it touches is marked.

use std::collections::BTreeSet;

use portolan_model::declared::{Declared, DeclaredSpec, ResourceKey};
use portolan_model::sharing::CatalogueEntry;
use portolan_model::{ClusterName, ServiceKey, Severity, WorkloadKey};

use super::Compiler;
use super::catalogue::Taken;
use super::change::{Change, RefusedEntry};
use super::facts::Subject;
use super::peers::Peers;
use super::service::problem;

impl Compiler {
    /// Takes one change in. Returns what of a peer's catalogue was refused, and why.
    pub fn apply(&mut self, change: Change) -> Vec<RefusedEntry> {
        match change {
            Change::Declared(declared) => return self.declare(declared),
            Change::Deleted(key) => return self.delete(&key),
            Change::Broken { key, problems } => {
                self.touched.problems.insert(key.clone());
                self.broken.insert(key, problems);
            }
            Change::Liveness { workload, ready } => self.set_liveness(workload, ready),
            Change::Gateways(mut gateways) => {
                gateways.sort();
                self.surroundings.gateways = gateways;
            }
            Change::Links(links) => {
                self.touched.peers.extend(links.keys().cloned());
                let before = std::mem::replace(&mut self.surroundings.links, links);
                self.touched.peers.extend(before.into_keys());
            }
            Change::Control(mut control) => {
                control.sort();
                self.surroundings.control = control;
            }
            Change::Trust(trust) => self.surroundings.trust = Some(trust),
            Change::Catalogue {
                peer,
                full,
                upserts,
                removals,
            } => return self.take_catalogue(peer, full, upserts, removals),
            Change::VipAssigned(assigned) => {
                for (key, ips) in assigned {
                    self.vips.restore(key, &ips);
                }
            }
        }
        Vec::new()
    }

    fn declare(&mut self, declared: Declared) -> Vec<RefusedEntry> {
        let key = declared.key.clone();
        self.touched.problems.insert(key.clone());
        let Some(subject) = Subject::of(&key).filter(|subject| subject.admits(&declared.spec))
        else {
            let unreadable = problem(
                Severity::Error,
                "",
                "its name, kind and content do not belong together".to_owned(),
                "apply it again",
            );
            self.broken.insert(key, vec![unreadable]);
            return Vec::new();
        };
        self.broken.remove(&key);
        if self.facts.declared().get(&key) == Some(&declared) {
            return Vec::new();
        }
        if let Some(old) = self.facts.remove(&key) {
            self.mark(&subject, &old, false);
        }
        self.mark(&subject, &declared, true);
        self.facts.insert(declared);
        self.judge_peers(&subject)
    }

    fn delete(&mut self, key: &ResourceKey) -> Vec<RefusedEntry> {
        self.broken.remove(key);
        self.touched.problems.insert(key.clone());
        let (Some(old), Some(subject)) = (self.facts.remove(key), Subject::of(key)) else {
            return Vec::new();
        };
        self.mark(&subject, &old, false);
        self.judge_peers(&subject)
    }

    /// Marks what a declaration touches by being there, or by being there no more. Neither version
    /// is in the facts at that time.
    fn mark(&mut self, subject: &Subject, declared: &Declared, arrives: bool) {
        match (subject, &declared.spec) {
            (Subject::Service(key), DeclaredSpec::Service(spec)) => {
                let at = declared.created_ms;
                let rivals = if arrives {
                    self.cluster_ips.claim(key, at, spec)
                } else {
                    self.cluster_ips.unclaim(key, at, spec)
                };
                self.touched.services.insert(key.clone());
                self.touched.services.extend(rivals);
                let workloads = self.facts.workloads_of(&key.namespace, spec);
                let workloads = workloads.into_iter().map(|(workload, _)| workload.clone());
                self.touched.inbound.extend(workloads);
            }
            (Subject::Export(key), DeclaredSpec::Export(_)) => {
                self.touched.services.insert(key.clone());
                if let Some(spec) = self.facts.service(key) {
                    let workloads = self.facts.workloads_of(&key.namespace, spec);
                    let workloads = workloads.into_iter().map(|(workload, _)| workload.clone());
                    self.touched.inbound.extend(workloads);
                }
            }
            (Subject::Workload(key), DeclaredSpec::Workload(_)) => {
                let services = self.facts.services_of(&key.namespace, &declared.labels);
                self.touched.services.extend(services);
                self.touched.inbound.insert(key.clone());
            }
            (Subject::Peer(name), DeclaredSpec::Peer(_)) => {
                self.touched.peers.insert(name.clone());
            }
            (Subject::Attached, spec) => {
                self.touched.attached.insert(declared.key.clone());
                for service in spec.targets() {
                    self.touch_face(&service);
                }
            }
            (
                Subject::Service(_) | Subject::Export(_) | Subject::Workload(_) | Subject::Peer(_),
                _,
            ) => {}
        }
    }

    /// What a service's routes and policies make: the service itself, and what its workloads accept.
    fn touch_face(&mut self, key: &ServiceKey) {
        self.touched.services.insert(key.clone());
        // Other routes and policies of the service may win or lose by this one.
        let rivals = self.facts.attached(key).map(|rival| rival.key.clone());
        self.touched.attached.extend(rivals.collect::<Vec<_>>());
        if let Some(spec) = self.facts.service(key) {
            let workloads = self.facts.workloads_of(&key.namespace, spec);
            let workloads = workloads.into_iter().map(|(workload, _)| workload.clone());
            self.touched.inbound.extend(workloads.collect::<Vec<_>>());
        }
    }

    fn set_liveness(&mut self, workload: WorkloadKey, ready: Option<bool>) {
        if !self.facts.set_liveness(workload.clone(), ready) {
            return;
        }
        if let Some((_, labels)) = self.facts.workload(&workload) {
            let services = self.facts.services_of(&workload.namespace, labels);
            self.touched.services.extend(services);
            self.touched.workloads.insert(workload);
        }
    }

    /// Judges the peers again after one of them changed, and drops what a peer that is none any
    /// more, or has another trust domain now, said earlier.
    fn judge_peers(&mut self, subject: &Subject) -> Vec<RefusedEntry> {
        if !matches!(subject, Subject::Peer(_)) {
            return Vec::new();
        }
        let now = Peers::judge(&self.identity, self.facts.peers());
        let before = std::mem::replace(&mut self.peers, now);
        let mut refused = Vec::new();
        let names: BTreeSet<_> = before
            .admitted
            .keys()
            .chain(self.peers.admitted.keys())
            .chain(before.rejected.keys())
            .chain(self.peers.rejected.keys())
            .cloned()
            .collect();
        for name in names {
            let (old, new) = (before.admitted.get(&name), self.peers.admitted.get(&name));
            if old == new && before.rejected.get(&name) == self.peers.rejected.get(&name) {
                continue;
            }
            let touched = match new {
                None => self.catalogues.forget(&name),
                Some(spec) => {
                    let offered = self.catalogues.services_of(&name);
                    refused.extend(self.catalogues.judge_again(&name, spec).refused);
                    offered
                }
            };
            self.touched.services.extend(touched);
            self.touched.peers.insert(name);
        }
        refused
    }

    fn take_catalogue(
        &mut self,
        peer: ClusterName,
        full: bool,
        upserts: Vec<CatalogueEntry>,
        removals: Vec<ServiceKey>,
    ) -> Vec<RefusedEntry> {
        let Some(spec) = self.peers.admitted.get(&peer) else {
            let reason = format!("no Peer {peer} is declared and admitted");
            return vec![RefusedEntry {
                peer,
                service: None,
                reason,
            }];
        };
        let Taken { touched, refused } = self.catalogues.take(&peer, spec, full, upserts, removals);
        self.touched.services.extend(touched);
        self.touched.peers.insert(peer);
        refused
    }
}
