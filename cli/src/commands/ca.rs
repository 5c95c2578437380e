//! `portolan ca`: the shared root, and one certificate authority per cluster.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use portolan_model::{ClusterIdentity, ClusterName, ClusterSetName, NameError, TrustDomain};
use portolan_trust::RootAuthority;

use crate::args::CaCommand;
use crate::exit::{Code, Failure, chain};
use crate::render;

/// How long a root is good: ten years.
const ROOT_VALIDITY: std::time::Duration = std::time::Duration::from_secs(10 * 365 * 86_400);

pub(crate) fn run(command: CaCommand) -> Result<(), Failure> {
    match command {
        CaCommand::Init { dir, cluster_set } => {
            let set = ClusterSetName::parse(&cluster_set).map_err(usage)?;
            init(&dir, &set)?;
            render::print(&format!(
                "root of {set}: {}\nits key:  {}  (whoever has it can admit clusters: keep it offline)",
                dir.join("root.pem").display(),
                dir.join("root.key").display(),
            ))
        }
        CaCommand::Issue {
            dir,
            cluster,
            cluster_set,
            trust_domain,
            out,
        } => {
            let cluster = ClusterName::parse(&cluster).map_err(usage)?;
            let domain =
                trust_domain_of(&cluster, cluster_set.as_deref(), trust_domain.as_deref())?;
            issue(&dir, &domain, &out)?;
            render::print(&format!(
                "certificate authority of {domain}: {}\nits key: {}\nroot:    {}",
                out.join("ca.pem").display(),
                out.join("ca.key").display(),
                out.join("root.pem").display(),
            ))
        }
    }
}

fn trust_domain_of(
    cluster: &ClusterName,
    set: Option<&str>,
    given: Option<&str>,
) -> Result<TrustDomain, Failure> {
    match (given, set) {
        (Some(domain), _) => TrustDomain::parse(domain).map_err(usage),
        (None, Some(set)) => {
            let set = ClusterSetName::parse(set).map_err(usage)?;
            ClusterIdentity::default_trust_domain(cluster, &set).map_err(usage)
        }
        (None, None) => Err(Failure::new(
            Code::Usage,
            "name --cluster-set or --trust-domain",
        )),
    }
}

/// Makes a root in `dir`. An existing one is never overwritten.
pub(crate) fn init(dir: &Path, set: &ClusterSetName) -> Result<RootAuthority, Failure> {
    let root = RootAuthority::create(set, ROOT_VALIDITY, now_s())
        .map_err(|error| Failure::new(Code::Identity, chain(&error)))?;
    folder(dir)?;
    write_new(&dir.join("root.key"), &root.key_pem(), 0o600)?;
    write_new(&dir.join("root.pem"), &root.cert_pem(), 0o644)?;
    Ok(root)
}

/// Signs a cluster's authority with the root in `dir`.
fn issue(dir: &Path, domain: &TrustDomain, out: &Path) -> Result<(), Failure> {
    let root =
        RootAuthority::from_pem(&read(&dir.join("root.pem"))?, &read(&dir.join("root.key"))?)
            .map_err(|error| {
                Failure::new(
                    Code::Identity,
                    format!("{}: {}", dir.display(), chain(&error)),
                )
            })?;
    issue_with(&root, domain, out)
}

/// Signs a cluster's authority and writes `ca.pem`, `ca.key` and `root.pem` to `out`.
pub(crate) fn issue_with(
    root: &RootAuthority,
    domain: &TrustDomain,
    out: &Path,
) -> Result<(), Failure> {
    let signed = root
        .sign_intermediate(domain, now_s())
        .map_err(|error| Failure::new(Code::Identity, chain(&error)))?;
    folder(out)?;
    write_new(&out.join("ca.key"), &signed.key_pem, 0o600)?;
    write_new(&out.join("ca.pem"), &signed.cert_pem, 0o644)?;
    write_new(&out.join("root.pem"), &root.cert_pem(), 0o644)
}

fn folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path)
        .map_err(|error| Failure::files(format!("cannot make {}: {error}", path.display())))
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| {
        Failure::files(format!(
            "cannot read {}: {error}; `portolan ca init` makes it",
            path.display()
        ))
    })
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error: std::io::Error| {
        let remedy = if error.kind() == std::io::ErrorKind::AlreadyExists {
            "; it is never overwritten: move it away, or choose another folder"
        } else {
            ""
        };
        Failure::files(format!("cannot write {}: {error}{remedy}", path.display()))
    })
}

fn usage(error: NameError) -> Failure {
    Failure::new(Code::Usage, error.to_string())
}

/// The wall clock, in Unix seconds.
pub(crate) fn now_s() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let set = ClusterSetName::parse("demo").unwrap();
        init(dir.path(), &set).unwrap();
        let before = fs::read(dir.path().join("root.key")).unwrap();
        assert_eq!(init(dir.path(), &set).err().unwrap().code, Code::Files);
        assert_eq!(fs::read(dir.path().join("root.key")).unwrap(), before);
    }

    #[test]
    fn keys_are_private_to_their_owner() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let root = init(dir.path(), &ClusterSetName::parse("demo").unwrap()).unwrap();
        let out = dir.path().join("us-east");
        issue_with(&root, &TrustDomain::parse("us-east.demo").unwrap(), &out).unwrap();
        for key in [dir.path().join("root.key"), out.join("ca.key")] {
            assert_eq!(
                fs::metadata(key).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }
}
