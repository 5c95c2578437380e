//! What bytes cost on their way: finding the server name in a ClientHello, and copying both ways.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use portolan_transport::pipe::copy_both;
use portolan_transport::wire::client_hello::{Parsed, server_name};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const NAME: &str = "p80.orders.shop.us-west.portolan.internal";
const IDLE: Duration = Duration::from_secs(60);
const BULK: usize = 16 << 20;
const MESSAGE: usize = 1024;

/// What a sidecar really sends, post-quantum key share and all.
fn hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), NAME.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn client_hello(criterion: &mut Criterion) {
    let hello = hello();
    let found = Parsed::Name(Some(NAME.to_owned()));
    assert_eq!(server_name(&hello), Ok(found));
    let mut group = criterion.benchmark_group("client hello");
    group.throughput(Throughput::Bytes(hello.len() as u64));
    group.bench_function("server_name", |bencher| {
        bencher.iter(|| server_name(black_box(&hello)));
    });
    group.bench_function("server_name of the first half", |bencher| {
        let half = &hello[..hello.len() / 2];
        bencher.iter(|| server_name(black_box(half)));
    });
    group.finish();
}

/// Two ends with a pipe between them, over loopback TCP.
async fn piped() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pair = async || {
        let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (dialled, (accepted, _)) = (dialled.unwrap(), accepted.unwrap());
        dialled.set_nodelay(true).unwrap();
        accepted.set_nodelay(true).unwrap();
        (dialled, accepted)
    };
    let ((near, a), (far, b)) = (pair().await, pair().await);
    tokio::spawn(copy_both(a, b, IDLE));
    (near, far)
}

fn pipe(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (near, far) = runtime.block_on(piped());
    let ends = std::cell::RefCell::new((near, far));
    let exchange = |bytes: usize| {
        let mut ends = ends.borrow_mut();
        let (near, far) = &mut *ends;
        let chunk = vec![b'x'; bytes.min(256 << 10)];
        let mut buffer = vec![0; bytes.min(256 << 10)];
        runtime.block_on(async {
            let send = async {
                for _ in 0..bytes / chunk.len() {
                    near.write_all(&chunk).await.unwrap();
                }
            };
            let take = async {
                for _ in 0..bytes / buffer.len() {
                    far.read_exact(&mut buffer).await.unwrap();
                }
            };
            tokio::join!(send, take);
        });
    };
    let mut group = criterion.benchmark_group("pipe");
    group.sample_size(20);
    for (name, bytes) in [("bulk, 16 MiB", BULK), ("one message, 1 KiB", MESSAGE)] {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |bencher| bencher.iter(|| exchange(bytes)));
    }
    group.finish();
}

criterion_group!(benches, client_hello, pipe);
criterion_main!(benches);
