//! Who calls, judged by the certificate of the connection.

use portolan_model::{IdentityKind, SpiffeId, TrustDomain};
use portolan_runtime::grpc::Caller;
use tonic::{Request, Status};

/// A caller that was let in.
#[derive(Debug, Clone)]
pub(crate) struct Admitted {
    pub(crate) id: SpiffeId,
    pub(crate) kind: IdentityKind,
}

/// Lets callers in.
#[derive(Debug, Clone)]
pub(crate) struct Callers {
    pub(crate) own: TrustDomain,
}

impl Callers {
    /// A proxy: a gateway or workload of the own trust domain.
    pub(crate) fn proxy<T>(&self, request: &Request<T>) -> Result<Admitted, Status> {
        let caller = identified(request)?;
        let proxy = match &caller.kind {
            IdentityKind::Workload { .. } | IdentityKind::Gateway { .. } => true,
            IdentityKind::Control { .. } | IdentityKind::Authority | IdentityKind::Other => false,
        };
        if proxy && caller.id.trust_domain() == &self.own {
            return Ok(caller);
        }
        Err(Status::permission_denied(format!(
            "`{}` is no gateway or workload of trust domain `{}`",
            caller.id, self.own
        )))
    }
}

/// Whoever calls, as long as there is a certificate.
pub(crate) fn identified<T>(request: &Request<T>) -> Result<Admitted, Status> {
    let id = Caller::of(request).cloned().ok_or_else(|| {
        Status::unauthenticated("this call needs a client certificate of the cluster set")
    })?;
    Ok(Admitted {
        kind: id.kind(),
        id,
    })
}
