//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Links clusters: a service exported once is called by one name from every cluster.
#[derive(Parser)]
#[command(
    name = "portolan",
    version,
    about,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run three linked clusters with demo apps on this machine
    Demo(DemoArgs),
    /// Store declarations: all of them, or none if one is wrong
    Apply(ApplyArgs),
    /// Show what `apply` would change (exit code 9 when something would)
    Diff(DiffArgs),
    /// List resources, or show one
    Get(GetArgs),
    /// Show one resource with what became of it: conditions and problems
    Describe(DescribeArgs),
    /// Delete resources
    Delete(DeleteArgs),
    /// Show how this cluster and its links are
    Status(StatusArgs),
    /// Tell where a call would go, and why
    Explain(ExplainArgs),
    /// Link this cluster with others
    Peer(PeerArgs),
    /// Make the shared root and the clusters' certificate authorities
    Ca(CaArgs),
    /// Make join tokens for workloads and gateways
    Token(TokenArgs),
    /// Run a cluster's control plane
    Control(DaemonArgs),
    /// Run a cluster's east-west gateway
    Gateway(DaemonArgs),
    /// Run the proxy beside one workload
    Sidecar(SidecarArgs),
    /// Configuration files of the daemons
    Config(ConfigArgs),
    /// Print a resource kind's JSON schema
    Schema(SchemaArgs),
    /// Print the completion script for a shell
    Completions(CompletionsArgs),
    /// Run one of the demo's apps
    #[command(hide = true, disable_version_flag = true)]
    DemoApp(DemoAppArgs),
}

/// The daemons alone: what describes all commands is the largest single piece of what a daemon would run and then keep
/// in memory. Not for people, who get their answers from [`Cli`].
#[derive(Parser)]
pub(crate) struct DaemonCli {
    #[command(subcommand)]
    pub(crate) command: DaemonCommand,
}

#[derive(Subcommand)]
pub(crate) enum DaemonCommand {
    Control(DaemonArgs),
    Gateway(DaemonArgs),
    Sidecar(SidecarArgs),
}

impl From<DaemonCommand> for Command {
    fn from(command: DaemonCommand) -> Self {
        match command {
            DaemonCommand::Control(args) => Self::Control(args),
            DaemonCommand::Gateway(args) => Self::Gateway(args),
            DaemonCommand::Sidecar(args) => Self::Sidecar(args),
        }
    }
}

/// Which control plane to talk to.
#[derive(Args, Clone)]
pub(crate) struct AdminArgs {
    /// The control plane's admin socket
    #[arg(
        long,
        env = "PORTOLAN_ADMIN",
        default_value = "unix:/run/portolan/admin.sock",
        value_name = "SOCKET"
    )]
    pub(crate) admin: String,
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Yaml,
    Json,
}

#[derive(Args, Clone, Copy)]
pub(crate) struct OutputArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: Output,
}

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Where to keep keys, registries and logs (a temporary folder, removed at the end, without it)
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print one line of JSON when everything is ready, and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    /// End by itself after so many seconds
    #[arg(long = "for", value_name = "SECONDS")]
    pub(crate) seconds: Option<u64>,
}

#[derive(Args)]
pub(crate) struct FilesArgs {
    /// Files with declarations (YAML or JSON); `-` is standard input; a folder means its *.yaml, *.yml, *.json
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The namespace of declarations that name none
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) files: FilesArgs,
    /// Check everything and say what would change, but store nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) files: FilesArgs,
}

#[derive(Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// services, serviceexports, serviceimports, workloads, peers, httproutes, grpcroutes, tlsroutes, tcproutes, …
    pub(crate) kind: String,
    /// One resource; all of the kind without it
    pub(crate) name: Option<String>,
    /// Only this namespace (with NAME: `default` without it)
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args)]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Its kind, for example httproute
    pub(crate) kind: String,
    /// Its name
    pub(crate) name: String,
    /// The namespace it is in
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// services, serviceexports, workloads, peers, httproutes, …
    #[arg(required_unless_present = "files")]
    pub(crate) kind: Option<String>,
    /// Which ones
    #[arg(required_unless_present = "files")]
    pub(crate) names: Vec<String>,
    /// The namespace they are in
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// Delete what these files declare
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with_all = ["kind", "names"])]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args)]
pub(crate) struct ExplainArgs {
    /// The name that is called, for example orders.shop.svc.clusterset.local, with or without :port; or an URL
    pub(crate) host: String,
    /// The caller, as namespace/service-account
    #[arg(
        long,
        value_name = "NS/SA",
        default_value = "default/default",
        conflicts_with = "sidecar"
    )]
    pub(crate) from: String,
    /// Ask this sidecar's admin address instead: with what it has ejected and measured
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) sidecar: Option<SocketAddr>,
    /// The request's method
    #[arg(long, default_value = "GET")]
    pub(crate) method: String,
    /// The request's path, with or without a query (`/` without it, or what the URL says)
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// A header of the request, as `name: value`; give it once for each
    #[arg(long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// The server name in the TLS ClientHello, for ports that carry no requests
    #[arg(long, value_name = "NAME", conflicts_with_all = ["method", "path", "headers"])]
    pub(crate) sni: Option<String>,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args)]
pub(crate) struct PeerArgs {
    #[command(subcommand)]
    pub(crate) command: PeerCommand,
}

#[derive(Subcommand)]
pub(crate) enum PeerCommand {
    /// Print this cluster as a Peer document, to be applied in other clusters
    Show {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// List the linked clusters and how the links are
    List {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Unlink a cluster: its links and every connection they carry are closed
    Remove {
        #[command(flatten)]
        admin: AdminArgs,
        /// The cluster's name
        name: String,
    },
}

#[derive(Args)]
pub(crate) struct CaArgs {
    #[command(subcommand)]
    pub(crate) command: CaCommand,
}

#[derive(Subcommand)]
pub(crate) enum CaCommand {
    /// Make the root that all clusters of the set share: DIR/root.pem and DIR/root.key (keep the key offline)
    Init {
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The cluster set's name
        #[arg(long, value_name = "NAME")]
        cluster_set: String,
    },
    /// Sign a certificate authority for one cluster: OUT/ca.pem, OUT/ca.key and OUT/root.pem
    Issue {
        /// Where `ca init` put the root
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The cluster's name
        #[arg(long, value_name = "NAME")]
        cluster: String,
        /// The cluster set's name
        #[arg(long, value_name = "NAME", required_unless_present = "trust_domain")]
        cluster_set: Option<String>,
        /// The cluster's trust domain (CLUSTER.CLUSTER_SET without it)
        #[arg(long, value_name = "DOMAIN")]
        trust_domain: Option<String>,
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a token with which a proxy gets its first certificate
    Create {
        #[command(flatten)]
        admin: AdminArgs,
        /// For a sidecar whose workload runs as this namespace/service-account
        #[arg(
            long,
            value_name = "NS/SA",
            required_unless_present = "gateway",
            conflicts_with = "gateway"
        )]
        workload: Option<String>,
        /// For the gateway of this name
        #[arg(long, value_name = "NAME")]
        gateway: Option<String>,
        /// How long it is good, for example 15m
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        ttl: std::time::Duration,
    },
}

#[derive(Args)]
pub(crate) struct DaemonArgs {
    /// The configuration file (`portolan config example control` or `gateway` prints one)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SidecarArgs {
    /// The configuration file (`portolan config example sidecar` prints one)
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<SidecarCommand>,
}

#[derive(Subcommand)]
pub(crate) enum SidecarCommand {
    /// Redirect the app's connections to the sidecar with nft rules (as root, in the workload's network namespace)
    Capture(CaptureArgs),
}

#[derive(Args)]
pub(crate) struct CaptureArgs {
    /// The sidecar's configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Redirect the connections of this Unix user (the app's)
    #[arg(long, value_name = "UID", group = "who")]
    pub(crate) app_uid: Option<u32>,
    /// Redirect the connections of this control group (the app's), below /sys/fs/cgroup
    #[arg(long, value_name = "PATH", group = "who")]
    pub(crate) app_cgroup: Option<String>,
    /// Redirect everybody's connections but those of this Unix user (the sidecar's)
    #[arg(long, value_name = "UID", group = "who", required_unless_present_any = ["app_uid", "app_cgroup", "remove"])]
    pub(crate) sidecar_uid: Option<u32>,
    /// The virtual IPs of the cluster set
    #[arg(long, value_name = "NETWORK", default_values = ["240.241.0.0/16", "fd24:241::/64"])]
    pub(crate) vips: Vec<ipnet::IpNet>,
    /// Redirect every connection that leaves, not only those to virtual IPs
    #[arg(long)]
    pub(crate) everything: bool,
    /// Print the rules and change nothing
    #[arg(long, conflicts_with = "remove")]
    pub(crate) print: bool,
    /// Remove the rules again
    #[arg(long)]
    pub(crate) remove: bool,
}

#[derive(Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print a commented configuration file
    Example {
        /// Of which daemon
        #[arg(value_enum)]
        kind: DaemonKind,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DaemonKind {
    Control,
    Gateway,
    Sidecar,
}

#[derive(Args)]
pub(crate) struct SchemaArgs {
    /// service, serviceexport, workload, peer, httproute, …
    pub(crate) kind: String,
}

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args)]
pub(crate) struct DemoAppArgs {
    /// Where to answer HTTP/1.1, HTTP/2 and gRPC
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) http: Vec<SocketAddr>,
    /// Where to answer lines over TCP
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) tcp: Vec<SocketAddr>,
    #[arg(long)]
    pub(crate) service: String,
    #[arg(long, default_value = "v1")]
    pub(crate) version: String,
    #[arg(long)]
    pub(crate) cluster: String,
    #[arg(long)]
    pub(crate) region: String,
    #[arg(long)]
    pub(crate) instance: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
