//! `portolan token`: how a proxy gets its first certificate.

use portolan_api::admin::{CreateTokenRequest, StatusRequest};
use portolan_model::{SpiffeId, TrustDomain};

use super::admin::{block_on, connect, failure, socket_path};
use crate::args::TokenCommand;
use crate::exit::{Code, Failure};
use crate::render;

pub(crate) fn run(command: TokenCommand) -> Result<(), Failure> {
    let TokenCommand::Create {
        admin,
        workload,
        gateway,
        ttl,
    } = command;
    let path = socket_path(&admin.admin)?;
    let token = block_on(async {
        let mut client = connect(&path).await?;
        let status = client
            .status(StatusRequest {})
            .await
            .map_err(|status| failure(&status))?
            .into_inner();
        let domain = TrustDomain::parse(&status.trust_domain).map_err(usage)?;
        let id = match (&workload, &gateway) {
            (Some(workload), _) => workload_id(&domain, workload)?,
            (None, Some(gateway)) => SpiffeId::gateway(&domain, gateway).map_err(usage)?,
            (None, None) => {
                return Err(Failure::new(
                    Code::Usage,
                    "name --workload NS/SA or --gateway NAME",
                ));
            }
        };
        let request = CreateTokenRequest {
            spiffe_id: id.to_string(),
            ttl_s: ttl.as_secs(),
        };
        Ok(client
            .create_token(request)
            .await
            .map_err(|status| failure(&status))?
            .into_inner()
            .token)
    })?;
    render::print(&token)
}

/// `namespace/service-account` as an identity of a trust domain.
pub(crate) fn workload_id(domain: &TrustDomain, text: &str) -> Result<SpiffeId, Failure> {
    let Some((namespace, account)) = text.split_once('/') else {
        return Err(Failure::new(
            Code::Usage,
            format!("`{text}` names no caller; write it as namespace/service-account"),
        ));
    };
    let namespace = namespace.parse().map_err(usage)?;
    Ok(SpiffeId::workload(
        domain,
        &namespace,
        &account.parse().map_err(usage)?,
    ))
}

fn usage(error: portolan_model::NameError) -> Failure {
    Failure::new(Code::Usage, error.to_string())
}
