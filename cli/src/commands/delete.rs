//! `portolan delete`.

use portolan_api::admin::DeleteRequest;
use portolan_model::Namespace;

use super::admin::{Admin, block_on, connect, failure, socket_path};
use crate::args::DeleteArgs;
use crate::exit::{Code, Failure};
use crate::render;

pub(crate) fn run(args: &DeleteArgs) -> Result<(), Failure> {
    let requests = if args.files.is_empty() {
        named(args)?
    } else {
        declared(args)?
    };
    for request in requests {
        delete(args, request)?;
    }
    Ok(())
}

/// Deletes one resource and says so.
fn delete(args: &DeleteArgs, request: DeleteRequest) -> Result<(), Failure> {
    let response = Admin::call(&args.admin, async move |mut client| {
        client.delete(request).await
    })?;
    match response.change {
        Some(change) => render::print(&format!("{} deleted", change.resource)),
        None => Ok(()),
    }
}

fn named(args: &DeleteArgs) -> Result<Vec<DeleteRequest>, Failure> {
    let kind = super::get::kind(args.kind.as_deref().unwrap_or_default())?;
    let request = |name: &String| DeleteRequest {
        kind: kind.as_str().to_owned(),
        namespace: if kind.namespaced() {
            args.namespace.clone()
        } else {
            String::new()
        },
        name: name.clone(),
    };
    Ok(args.names.iter().map(request).collect())
}

/// What the files declare, last first, so that an export goes before its service.
fn declared(args: &DeleteArgs) -> Result<Vec<DeleteRequest>, Failure> {
    let namespace = Namespace::parse(&args.namespace)
        .map_err(|error| Failure::new(Code::Usage, error.to_string()))?;
    let mut requests = Vec::new();
    for document in super::apply::documents(&args.files)? {
        let read = portolan_compiler::read(&document.file, &document.text, &namespace);
        if let Some(problem) = read
            .problems
            .iter()
            .find(|problem| problem.severity == portolan_model::Severity::Error)
        {
            return Err(Failure::invalid(problem.to_string()));
        }
        requests.extend(read.declared.iter().map(|(declared, _)| {
            DeleteRequest {
                kind: declared.key.kind.as_str().to_owned(),
                namespace: declared
                    .key
                    .namespace
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                name: declared.key.name.clone(),
            }
        }));
    }
    requests.reverse();
    Ok(requests)
}

/// Deletes one cluster-wide resource; for `peer remove`.
pub(crate) fn peer(admin: &str, name: &str) -> Result<(), Failure> {
    let path = socket_path(admin)?;
    let request = DeleteRequest {
        kind: "Peer".to_owned(),
        namespace: String::new(),
        name: name.to_owned(),
    };
    block_on(async {
        let mut client = connect(&path).await?;
        client
            .delete(request)
            .await
            .map_err(|status| failure(&status))?;
        Ok(())
    })?;
    render::print(&format!("Peer {name} deleted: its links are closed"))
}
