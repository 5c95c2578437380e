//! The way to a control plane's admin socket.

use std::path::PathBuf;

use portolan_api::admin::Problem;
use portolan_api::admin::admin_client::AdminClient;
use tonic::transport::Channel;

use crate::args::AdminArgs;
use crate::exit::{Code, Failure};

pub(crate) struct Admin;

impl Admin {
    /// Connects, makes one call, and turns its failure into a sentence with an exit code.
    pub(crate) fn call<T>(
        args: &AdminArgs,
        call: impl AsyncFnOnce(AdminClient<Channel>) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, Failure> {
        let path = socket_path(&args.admin)?;
        block_on(async {
            let client = connect(&path).await?;
            call(client)
                .await
                .map(tonic::Response::into_inner)
                .map_err(|status| failure(&status))
        })
    }
}

/// Connects to an admin socket.
pub(crate) async fn connect(path: &std::path::Path) -> Result<AdminClient<Channel>, Failure> {
    let channel = portolan_runtime::grpc::connect_unix(path).await.map_err(|error| {
        Failure::unreachable(format!(
            "no control plane answers at unix:{}: {}; start one with `portolan control --config FILE`, or name its socket with --admin or PORTOLAN_ADMIN",
            path.display(),
            crate::exit::chain(&error),
        ))
    })?;
    Ok(AdminClient::new(channel)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX))
}

/// The largest admin message, in bytes.
const MESSAGE_MAX: usize = 64 << 20;

/// Runs a future to its end on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("cannot start a runtime: {error}")))?
        .block_on(future)
}

/// `unix:/path` or a bare path.
pub(crate) fn socket_path(text: &str) -> Result<PathBuf, Failure> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    if path.is_empty() || text.contains("://") {
        return Err(Failure::new(
            Code::Usage,
            format!("`{text}` names no socket; write it as unix:/path/to/admin.sock"),
        ));
    }
    Ok(PathBuf::from(path))
}

/// What a refused call means for the command line.
pub(crate) fn failure(status: &tonic::Status) -> Failure {
    let code = match status.code() {
        tonic::Code::NotFound => Code::NotFound,
        tonic::Code::InvalidArgument
        | tonic::Code::FailedPrecondition
        | tonic::Code::AlreadyExists
        | tonic::Code::Aborted => Code::Invalid,
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => Code::Unreachable,
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Code::Identity,
        tonic::Code::ResourceExhausted | tonic::Code::DataLoss => Code::Files,
        tonic::Code::Ok
        | tonic::Code::Cancelled
        | tonic::Code::Unknown
        | tonic::Code::OutOfRange
        | tonic::Code::Unimplemented
        | tonic::Code::Internal => Code::Internal,
    };
    Failure::new(code, status.message())
}

/// A problem as one line: place, resource, field, what is wrong, what would be right.
pub(crate) fn said(problem: &Problem) -> String {
    let mut text = String::new();
    if !problem.file.is_empty() {
        text.push_str(&format!(
            "{}:{}:{}: ",
            problem.file, problem.line, problem.column
        ));
    }
    for part in [&problem.resource, &problem.path] {
        if !part.is_empty() {
            text.push_str(part);
            text.push_str(": ");
        }
    }
    text.push_str(&problem.message);
    if !problem.remedy.is_empty() {
        text.push_str("; ");
        text.push_str(&problem.remedy);
    }
    text
}
