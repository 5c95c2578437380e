use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};

const AMPLE: Duration = Duration::from_secs(30);

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn much_crosses_both_ways_and_half_close_is_passed_on() {
    let ((mut caller, a), (b, mut callee)) = (tcp_pair().await, tcp_pair().await);
    let request: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let piping = tokio::spawn(copy_both(a, b, AMPLE));
    let sent = request.clone();
    let calling = tokio::spawn(async move {
        caller.write_all(&sent).await.unwrap();
        caller.shutdown().await.unwrap();
        let mut answer = Vec::new();
        caller.read_to_end(&mut answer).await.unwrap();
        answer
    });
    let mut got = Vec::new();
    callee.read_to_end(&mut got).await.unwrap();
    assert!(got == request);
    callee.write_all(b"late answer").await.unwrap();
    callee.shutdown().await.unwrap();
    assert_eq!(calling.await.unwrap(), b"late answer");
    let end = piping.await.unwrap();
    assert_eq!((end.sent, end.received), (3_000_000, 11));
    assert!(matches!(end.ended, Ended::Finished { first: Side::A }));
}

#[tokio::test]
async fn who_ended_first_is_known() {
    let ((mut caller, a), (b, callee)) = (duplex(10), duplex(10));
    let piping = tokio::spawn(copy_both(a, b, AMPLE));
    drop(callee);
    assert_eq!(caller.read(&mut [0]).await.unwrap(), 0);
    drop(caller);
    let end = piping.await.unwrap();
    assert!(matches!(end.ended, Ended::Finished { first: Side::B }));
}

#[tokio::test]
async fn a_small_write_is_not_held_back() {
    let ((mut caller, a), (b, mut callee)) = (duplex(10), duplex(10));
    let piping = tokio::spawn(copy_both(a, tokio::io::BufStream::new(b), AMPLE));
    caller.write_all(b"hi").await.unwrap();
    let mut got = [0; 2];
    callee.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hi");
    piping.abort();
}

#[tokio::test]
async fn silence_ends_the_pipe() {
    let ((_caller, a), (b, _callee)) = (duplex(10), duplex(10));
    let end = copy_both(a, b, Duration::from_millis(20)).await;
    assert!(matches!(end.ended, Ended::Idle));
}

#[tokio::test]
async fn a_peer_that_stops_reading_counts_as_silence_and_memory_is_bounded() {
    let ((mut caller, a), (b, _callee)) = (duplex(10), duplex(10));
    let flooding = tokio::spawn(async move {
        let mut sent = 0usize;
        while let Ok(count) = caller.write(&[0; 1000]).await {
            sent += count;
        }
        sent
    });
    let end = copy_both(a, b, Duration::from_millis(20)).await;
    assert!(matches!(end.ended, Ended::Idle));
    assert!(flooding.await.unwrap() <= BUFFER_MAX + 20);
}

#[tokio::test]
async fn a_broken_stream_is_named() {
    let ((caller, a), (b, _callee)) = (tcp_pair().await, duplex(10));
    caller.set_zero_linger().unwrap();
    drop(caller);
    let end = copy_both(a, b, AMPLE).await;
    assert!(matches!(end.ended, Ended::Broken { side: Side::A, .. }));
}

#[test]
fn buffers_grow_with_full_reads_and_shrink_again() {
    let mut direction = Direction::new(Side::A);
    let mut read = |count: usize| {
        direction.end = count.min(direction.size);
        direction.fit_buffer();
        direction.size
    };
    assert_eq!(read(usize::MAX), 2 * BUFFER_START);
    for _ in 0..10 {
        read(usize::MAX);
    }
    assert_eq!(read(usize::MAX), BUFFER_MAX);
    for _ in 0..1000 {
        read(100);
    }
    assert_eq!(read(100), BUFFER_START);
}

#[tokio::test]
async fn directions_at_rest_hold_no_buffer_and_one_that_cannot_write_keeps_its_own() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let ((mut caller, mut a), (mut b, mut callee)) = (duplex(100), duplex(10));
    let (mut forth, mut other) = (Direction::new(Side::A), Direction::new(Side::A));
    assert!(forth.poll(&mut cx, &mut a, &mut b).is_pending());
    assert!(forth.buffer.is_empty());
    caller.write_all(b"more than fits").await.unwrap();
    assert!(forth.poll(&mut cx, &mut a, &mut b).is_pending());
    assert_eq!(&forth.buffer[forth.start..forth.end], b"fits");

    let ((mut second, mut c), (mut d, mut third)) = (duplex(100), duplex(100));
    second.write_all(b"another's").await.unwrap();
    assert!(other.poll(&mut cx, &mut c, &mut d).is_pending());
    let mut got = [0; 100];
    let count = third.read(&mut got).await.unwrap();
    assert_eq!(&got[..count], b"another's");

    let mut whole = Vec::new();
    while whole.len() < b"more than fits".len() {
        let count = callee.read(&mut got).await.unwrap();
        whole.extend_from_slice(&got[..count]);
        assert!(forth.poll(&mut cx, &mut a, &mut b).is_pending());
    }
    assert_eq!(whole, b"more than fits");
    assert!(forth.buffer.is_empty() && other.buffer.is_empty());
}

#[tokio::test]
async fn who_cannot_write_holds_no_larger_buffer_than_it_needs() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    leave(vec![0; BUFFER_MAX].into());
    let ((mut caller, mut a), (mut b, mut callee)) = (duplex(100), duplex(10));
    let mut forth = Direction::new(Side::A);
    caller.write_all(b"more than fits").await.unwrap();
    assert!(forth.poll(&mut cx, &mut a, &mut b).is_pending());
    assert_eq!(forth.buffer.len(), BUFFER_START);
    assert_eq!(take(BUFFER_MAX).len(), BUFFER_MAX, "it was left to others");
    let mut got = [0; 10];
    callee.read_exact(&mut got).await.unwrap();
    assert!(forth.poll(&mut cx, &mut a, &mut b).is_pending());
    let mut rest = [0; 4];
    callee.read_exact(&mut rest).await.unwrap();
    assert_eq!((&got, &rest), (b"more than ", b"fits"));
}
