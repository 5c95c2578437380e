//! Asking the control plane for tokens of limits that all instances of a service keep together.

use portolan_api::MESSAGE_BYTES_MAX;
use portolan_api::quota::quota_client;
use portolan_api::quota::{Answer, Question};
use portolan_transport::mtls::TlsContext;
use tonic::transport::Channel;

use crate::grpc::{self, ControlTarget, Credentials, describe};
use crate::settings::ControlClientConfig;

/// Where questions are asked. It connects with the first one, and again whenever it must.
#[derive(Debug, Clone)]
pub struct QuotaClient(quota_client::QuotaClient<Channel>);

impl QuotaClient {
    /// Prepares to ask.
    #[must_use]
    pub fn new(config: &ControlClientConfig, tls: &TlsContext) -> Self {
        let channel = grpc::channel(&ControlTarget::own(config), tls, Credentials::Certificate);
        let client = quota_client::QuotaClient::new(channel);
        Self(client.max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Asks once.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub async fn ask(&mut self, question: Question) -> Result<Answer, String> {
        let answer = self.0.ask(question).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| describe(&status))
    }
}
