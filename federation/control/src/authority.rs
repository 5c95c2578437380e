//! The certificate service: who may have which certificate.

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_api::authority::authority_server::Authority;
use portolan_api::authority::{CertifyRequest, CertifyResponse};
use portolan_model::{IdentityKind, SpiffeId};
use portolan_runtime::grpc::{Caller, UnixPeer};
use portolan_trust::{BACKDATE_S, TOKEN_MAX, check_token};
use tonic::{Request, Response, Status};

use crate::ca::{Ca, LEAF_TTL, now_s};
use crate::config::LocalIdentity;
use crate::metrics::{ControlMetrics, label};

/// The system's administrator.
pub(crate) const ROOT_UID: u32 = 0;

/// Which Unix users may ask for which identities on the admin socket.
#[derive(Debug, Clone)]
pub(crate) struct LocalRule {
    /// The control plane's own user.
    pub(crate) own_uid: u32,
    pub(crate) identities: Vec<LocalIdentity>,
}

impl LocalRule {
    /// Whether the user may be `id`.
    pub(crate) fn allows(&self, uid: u32, id: &SpiffeId) -> bool {
        uid == ROOT_UID
            || uid == self.own_uid
            || self
                .identities
                .iter()
                .any(|rule| rule.uid == uid && rule.identity.matches(id))
    }
}

/// What the decision goes by.
#[derive(Debug, Clone, Copy, Default)]
struct Proof<'a> {
    token: Option<&'a str>,
    user: Option<u32>,
    certificate: Option<&'a SpiffeId>,
}

/// The certificate service, over TLS and on the admin socket alike. Clones share everything.
#[derive(Clone)]
pub(crate) struct AuthorityService {
    pub(crate) ca: Arc<Ca>,
    pub(crate) secret: Arc<[u8; 32]>,
    pub(crate) local: Arc<LocalRule>,
    pub(crate) metrics: ControlMetrics,
}

#[tonic::async_trait]
impl Authority for AuthorityService {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let user = UnixPeer::of(&request).map(|peer| peer.uid);
        let certificate = Caller::of(&request).cloned();
        let request = request.into_inner();
        let proof = Proof {
            token: Some(request.join_token.as_str()).filter(|token| !token.is_empty()),
            user,
            certificate: certificate.as_ref(),
        };
        match self.certify_by(&request, proof) {
            Ok(response) => Ok(Response::new(response)),
            Err(status) => {
                self.metrics.certificates_refused.inc();
                tracing::warn!(
                    asked = %request.spiffe_id.escape_default(),
                    by = certificate.map(|id| id.to_string()), user,
                    reason = status.message(), "refused a certificate"
                );
                Err(status)
            }
        }
    }
}

impl AuthorityService {
    fn certify_by(
        &self,
        request: &CertifyRequest,
        proof: Proof<'_>,
    ) -> Result<CertifyResponse, Status> {
        let id = SpiffeId::parse(&request.spiffe_id)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let kind = self.certifiable(&id)?;
        self.proved(&id, proof)?;
        let now = now_s();
        let chain = self
            .ca
            .authority
            .issue(&request.csr_der, &id, LEAF_TTL, now)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.metrics
            .certificates
            .get_or_create(&label("kind", kind))
            .inc();
        tracing::info!(%id, "issued a certificate");
        let roots: BTreeSet<Vec<u8>> = self
            .ca
            .roots
            .roots()
            .iter()
            .map(|root| root.to_vec())
            .collect();
        Ok(CertifyResponse {
            chain_der: chain
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
            roots_der: roots.into_iter().collect(),
            not_before_s: now.saturating_sub(BACKDATE_S),
            not_after_s: (now + LEAF_TTL.as_secs()).min(self.ca.authority.not_after_s()),
        })
    }

    /// Only proxies get certificates, and only of the own trust domain.
    fn certifiable(&self, id: &SpiffeId) -> Result<&'static str, Status> {
        let own = self.ca.authority.trust_domain();
        if id.trust_domain() != own {
            return Err(Status::permission_denied(format!(
                "`{id}` is not of trust domain `{own}`, the only one this cluster certifies"
            )));
        }
        match id.kind() {
            IdentityKind::Workload { .. } => Ok("workload"),
            IdentityKind::Gateway { .. } => Ok("gateway"),
            IdentityKind::Control { .. } | IdentityKind::Authority | IdentityKind::Other => {
                Err(Status::permission_denied(format!(
                    "`{id}` is neither a workload's identity (`spiffe://{own}/ns/<namespace>/sa/<service account>`) nor a gateway's (`spiffe://{own}/portolan/gateway/<name>`)"
                )))
            }
        }
    }

    fn proved(&self, id: &SpiffeId, proof: Proof<'_>) -> Result<(), Status> {
        if let Some(token) = proof.token {
            if token.len() > TOKEN_MAX {
                return Err(Status::invalid_argument("the join token is too long"));
            }
            return check_token(&self.secret, token, id, now_s())
                .map_err(|error| Status::permission_denied(error.to_string()));
        }
        if let Some(uid) = proof.user {
            if self.local.allows(uid, id) {
                return Ok(());
            }
            return Err(Status::permission_denied(format!(
                "user {uid} may not be `{id}`; list it under localIdentities in the control plane's configuration, or use a join token"
            )));
        }
        match proof.certificate {
            Some(holder) if holder == id => Ok(()),
            Some(holder) => Err(Status::permission_denied(format!(
                "the certificate is for `{holder}`, which can be renewed, but not exchanged for `{id}`"
            ))),
            None => Err(Status::unauthenticated(
                "nothing proves who asks; send a join token (`portolan token`), or the certificate to be renewed",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use portolan_trust::{KeyRequest, mint_token};
    use tonic::Code;

    fn service() -> AuthorityService {
        let world = fixtures::World::new();
        let (ca, _) = world.ca("us-east");
        AuthorityService {
            ca,
            secret: Arc::new([7; 32]),
            local: Arc::new(LocalRule {
                own_uid: 1000,
                identities: vec![LocalIdentity {
                    uid: 1001,
                    identity: crate::config::IdentityPattern::parse(
                        "spiffe://us-east.mesh/ns/shop/sa/*",
                    )
                    .unwrap(),
                }],
            }),
            metrics: ControlMetrics::new(),
        }
    }

    fn ask(
        service: &AuthorityService,
        id: &str,
        proof: Proof<'_>,
    ) -> Result<CertifyResponse, Status> {
        let request = CertifyRequest {
            csr_der: KeyRequest::new().unwrap().csr_der,
            spiffe_id: id.to_owned(),
            join_token: String::new(),
        };
        service.certify_by(&request, proof)
    }

    const ORDERS: &str = "spiffe://us-east.mesh/ns/shop/sa/orders";

    #[test]
    fn a_token_admits_to_its_identity_until_it_expires() {
        let service = service();
        let id = SpiffeId::parse(ORDERS).unwrap();
        let good = mint_token(&service.secret, &id, now_s() + 60);
        let proof = |token| Proof {
            token: Some(token),
            ..Proof::default()
        };
        let issued = ask(&service, ORDERS, proof(&good)).unwrap();
        assert_eq!(issued.chain_der.len(), 2);
        assert!(issued.not_after_s > now_s() + 23 * 3600);
        let other = "spiffe://us-east.mesh/ns/shop/sa/payments";
        let refused = ask(&service, other, proof(&good)).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let old = mint_token(&service.secret, &id, now_s() - 60);
        let refused = ask(&service, ORDERS, proof(&old)).unwrap_err();
        assert!(refused.message().contains("expired"), "{refused}");
        let forged = mint_token(&[8; 32], &id, now_s() + 60);
        assert!(ask(&service, ORDERS, proof(&forged)).is_err());
    }

    #[test]
    fn other_trust_domains_and_control_planes_are_never_certified() {
        let service = service();
        let root = Proof {
            user: Some(ROOT_UID),
            ..Proof::default()
        };
        for id in [
            "spiffe://us-west.mesh/ns/shop/sa/orders",
            "spiffe://us-east.mesh/portolan/control/us-east",
            "spiffe://us-east.mesh",
            "spiffe://us-east.mesh/anything",
        ] {
            let refused = ask(&service, id, root).unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{id}");
        }
        assert!(ask(&service, ORDERS, root).is_ok());
    }

    #[test]
    fn a_certificate_renews_itself_only_and_users_get_what_is_listed() {
        let service = service();
        let own = SpiffeId::parse(ORDERS).unwrap();
        let with = |certificate| Proof {
            certificate: Some(certificate),
            ..Proof::default()
        };
        assert!(ask(&service, ORDERS, with(&own)).is_ok());
        let gateway = "spiffe://us-east.mesh/portolan/gateway/gw-0";
        assert!(ask(&service, gateway, with(&own)).is_err());
        let nobody = ask(&service, ORDERS, Proof::default()).unwrap_err();
        assert_eq!(nobody.code(), Code::Unauthenticated);
        let user = |uid| Proof {
            user: Some(uid),
            ..Proof::default()
        };
        assert!(ask(&service, gateway, user(1000)).is_ok());
        assert!(ask(&service, ORDERS, user(1001)).is_ok());
        assert!(ask(&service, gateway, user(1001)).is_err());
        assert!(ask(&service, ORDERS, user(1002)).is_err());
    }
}
