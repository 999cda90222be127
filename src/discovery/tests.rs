//! Against a real TLS server in this process, with certificates and clocks made for each case.

pub(crate) mod meeting;
pub(crate) mod server;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use kprov_pki::pin::Pin;
use kprov_pki::token::Token;
use time::OffsetDateTime;

use self::server::{Pki, Server, cluster_info};
use super::*;

fn token() -> Token {
    "abcdef.0123456789abcdef".parse().unwrap()
}

fn request(server: &Server, pki: &Pki) -> Request {
    Request {
        endpoint: server.endpoint(),
        token: token(),
        pins: vec![Pin::of(&pki.ca)],
        patience: Patience {
            all: Duration::from_secs(3),
            silence: Duration::from_millis(300),
            signature: Duration::from_millis(300),
            connect: Duration::from_secs(1),
        },
    }
}

async fn ask(request: &Request) -> (Result<Place, Trouble>, Vec<String>, Duration) {
    let said = Mutex::new(Vec::new());
    let started = Instant::now();
    let result = discover(request, &|text| said.lock().unwrap().push(text)).await;
    (result, said.into_inner().unwrap(), started.elapsed())
}

#[tokio::test]
async fn a_cluster_is_found_and_trusted() {
    let pki = Pki::new();
    let server = Server::start(&pki, |_| (200, cluster_info(&Pki::new(), None))).await;
    let info = cluster_info(&pki, Some(&token()));
    server.answer(move |_| (200, info.clone()));
    let (result, said, _) = ask(&request(&server, &pki)).await;
    // Not the address that was typed: the one that the cluster names.
    assert_eq!(
        result.unwrap(),
        Place { server: "https://api.example.org:6443".into(), ca_pem: pki.ca.to_pem().into_bytes() }
    );
    assert!(said.is_empty(), "{said:?}");
    assert_eq!(server.asked(), 2, "once open, once verified");
}

#[tokio::test]
async fn one_of_several_pins_is_enough() {
    let pki = Pki::new();
    let info = cluster_info(&pki, Some(&token()));
    let server = Server::start(&pki, move |_| (200, info.clone())).await;
    let mut request = request(&server, &pki);
    request.pins.insert(0, Pin::of(&Pki::new().ca));
    ask(&request).await.0.unwrap();
}

#[tokio::test]
async fn a_wrong_pin_ends_at_once() {
    let pki = Pki::new();
    let info = cluster_info(&pki, Some(&token()));
    let server = Server::start(&pki, move |_| (200, info.clone())).await;
    let mut request = request(&server, &pki);
    request.pins = vec![Pin::of(&Pki::new().ca)];
    let (result, _, took) = ask(&request).await;
    let why = result.unwrap_err();
    assert_eq!(why, Trouble::WrongPin { endpoint: server.endpoint(), found: Pin::of(&pki.ca).to_string() });
    assert!(!why.is_remote());
    assert!(took < Duration::from_millis(250), "{took:?}");
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn without_pins_the_tokens_signature_is_believed() {
    let pki = Pki::new();
    let info = cluster_info(&pki, Some(&token()));
    let server = Server::start(&pki, move |_| (200, info.clone())).await;
    let mut request = request(&server, &pki);
    request.pins.clear();
    ask(&request).await.0.unwrap();
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn swapped_contents_are_noticed() {
    let (pki, other) = (Pki::new(), Pki::new());
    // Somebody in between puts another CA into the kubeconfig and leaves the signature as it was.
    let (honest, swapped) = (cluster_info(&pki, Some(&token())), cluster_info(&other, None));
    let mut map: serde_json::Value = serde_json::from_str(&honest).unwrap();
    let swapped: serde_json::Value = serde_json::from_str(&swapped).unwrap();
    map["data"]["kubeconfig"] = swapped["data"]["kubeconfig"].clone();
    let server = Server::start(&other, move |_| (200, map.to_string())).await;
    let mut request = request(&server, &other);
    let (result, ..) = ask(&request).await;
    assert!(matches!(result, Err(Trouble::BadSignature { .. })), "{result:?}");
    request.pins = vec![Pin::of(&pki.ca)];
    assert!(matches!(ask(&request).await.0, Err(Trouble::WrongPin { .. })));
}

#[tokio::test]
async fn a_swap_after_the_first_look_is_noticed() {
    let pki = Pki::new();
    let first = cluster_info(&pki, Some(&token()));
    let second = first.replace("api.example.org", "evil.example.org");
    assert_ne!(first, second);
    let server = Server::start(&pki, move |n| (200, if n == 0 { first.clone() } else { second.clone() })).await;
    assert_eq!(ask(&request(&server, &pki)).await.0, Err(Trouble::Changed { endpoint: server.endpoint() }));
}

#[tokio::test]
async fn a_server_that_the_pinned_ca_did_not_sign_is_refused() {
    let (pki, other) = (Pki::new(), Pki::new());
    // It repeats what the true cluster says, but cannot show its certificate.
    let info = cluster_info(&pki, Some(&token()));
    let server = Server::start(&other, move |_| (200, info.clone())).await;
    let why = ask(&request(&server, &pki)).await.0.unwrap_err();
    assert!(why.to_string().ends_with("is not signed by the cluster's CA"), "{why}");
}

#[tokio::test]
async fn a_server_of_a_ca_with_another_kind_of_key_is_refused() {
    let (pki, other) = (Pki::new(), Pki::rsa());
    let info = cluster_info(&pki, Some(&token()));
    let server = Server::start(&other, move |_| (200, info.clone())).await;
    let why = ask(&request(&server, &pki)).await.0.unwrap_err();
    assert!(why.to_string().ends_with("is not signed by the cluster's CA"), "{why}");
}

#[tokio::test]
async fn an_unknown_token_is_said_soon_where_others_are_signed_for() {
    let pki = Pki::new();
    let other: Token = "zzzzzz.0123456789abcdef".parse().unwrap();
    let info = cluster_info(&pki, Some(&other));
    let server = Server::start(&pki, move |_| (200, info.clone())).await;
    let (result, said, took) = ask(&request(&server, &pki)).await;
    let why = result.unwrap_err();
    assert_eq!(why, Trouble::UnknownToken { id: "abcdef".into() });
    assert_eq!(said, [format!("{why} (trying for 0 s)")]);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(server.asked() >= 2, "a signature may be a moment late");
}

#[tokio::test]
async fn an_expired_token_is_said_soon_in_a_cluster_that_is_not_new() {
    let pki = Pki::new();
    let mut map: serde_json::Value = serde_json::from_str(&cluster_info(&pki, None)).unwrap();
    map["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
    let server = Server::start(&pki, move |_| (200, map.to_string())).await;
    assert_eq!(ask(&request(&server, &pki)).await.0, Err(Trouble::UnknownToken { id: "abcdef".into() }));
}

#[tokio::test]
async fn a_new_clusters_signature_is_waited_for() {
    let pki = Pki::new();
    let (bare, signed) = (cluster_info(&pki, None), cluster_info(&pki, Some(&token())));
    let server = Server::start(&pki, move |n| match n {
        0 => (404, r#"{"kind":"Status"}"#.into()),
        1..5 => (200, bare.clone()),
        _ => (200, signed.clone()),
    })
    .await;
    let (result, said, _) = ask(&request(&server, &pki)).await;
    result.unwrap();
    assert_eq!(said.len(), 2, "each reason once: {said:?}");
}

#[tokio::test]
async fn a_wrong_secret_is_said() {
    let pki = Pki::new();
    let other: Token = "abcdef.fedcba9876543210".parse().unwrap();
    let info = cluster_info(&pki, Some(&other));
    let server = Server::start(&pki, move |_| (200, info.clone())).await;
    let why = ask(&request(&server, &pki)).await.0.unwrap_err();
    assert!(matches!(why, Trouble::BadSignature { .. }));
    assert!(!why.to_string().contains("0123456789abcdef"), "the secret is not told");
}

#[tokio::test]
async fn an_expired_certificate_is_said_with_its_time() {
    let mut pki = Pki::new();
    pki.leaf_at(OffsetDateTime::now_utc() - time::Duration::days(400), time::Duration::days(365));
    let info = cluster_info(&pki, Some(&token()));
    let server = Server::start(&pki, move |_| (200, info.clone())).await;
    let why = ask(&request(&server, &pki)).await.0.unwrap_err();
    assert!(matches!(why, Trouble::Certificate(_)), "{why:?}");
    assert!(why.to_string().contains("expired at 20"), "{why}");
}

#[tokio::test]
async fn a_clock_that_is_off_is_named() {
    // The cluster lives a year from now: to it, this machine's clock is a year behind.
    let there = OffsetDateTime::now_utc() + time::Duration::days(365);
    let mut pki = Pki::at(there);
    let info = cluster_info(&pki, Some(&token()));
    let server = Server::start(&pki, move |_| (200, info.clone())).await;
    server.clock(there);
    let why = ask(&request(&server, &pki)).await.0.unwrap_err();
    assert!(matches!(why, Trouble::Clock { .. }), "{why:?}");
    assert!(why.to_string().contains("the cluster's CA is not valid before"), "{why}");
    assert!(why.to_string().contains("this machine's clock is 8760h0m0s behind the API server's"), "{why}");

    // The same where only the server's certificate is new.
    pki = Pki::new();
    pki.leaf_at(there, time::Duration::days(365));
    let info = cluster_info(&pki, Some(&token()));
    let server = Server::start(&pki, move |_| (200, info.clone())).await;
    server.clock(there);
    let (result, said, _) = ask(&request(&server, &pki)).await;
    assert!(matches!(result, Err(Trouble::Clock { .. })), "{result:?}");
    assert_eq!(said.len(), 1, "warned before it failed: {said:?}");
}

#[tokio::test]
async fn a_clock_that_is_ahead_is_named() {
    // The cluster lived twenty years ago: to this machine its CA has expired.
    let there = OffsetDateTime::now_utc() - time::Duration::days(7300);
    let pki = Pki::at(there);
    let info = cluster_info(&pki, Some(&token()));
    let server = Server::start(&pki, move |_| (200, info.clone())).await;
    server.clock(there);
    let why = ask(&request(&server, &pki)).await.0.unwrap_err();
    assert!(why.to_string().contains("because this machine's clock is 175200h0m0s ahead of the API server's"), "{why}");
    assert_eq!(why.hints(), ["set the clock, for instance: timedatectl set-ntp true"]);

    // Where nothing is out of its time, it is only said.
    let pki = Pki::new();
    let info = cluster_info(&pki, Some(&token()));
    let server = Server::start(&pki, move |_| (200, info.clone())).await;
    server.clock(OffsetDateTime::now_utc() - time::Duration::minutes(10));
    let (result, said, _) = ask(&request(&server, &pki)).await;
    result.unwrap();
    assert_eq!(said, ["this machine's clock is 10m0s ahead of the API server's: certificates may be refused"]);
}

#[tokio::test]
async fn an_endpoint_with_ipv6_alone() {
    let pki = Pki::new();
    let info = cluster_info(&pki, Some(&token()));
    let server = Server::start_v6(&pki, move |_| (200, info.clone())).await;
    let mut request = request(&server, &pki);
    request.endpoint = request.endpoint.replace("127.0.0.1", "[::1]");
    ask(&request).await.0.unwrap();
    // Documentation's addresses lead nowhere.
    request.endpoint = "[2001:db8::1]:6443".into();
    let why = ask(&request).await.0.unwrap_err();
    // Where a default route leads there, nobody answers.
    let said = why.to_string();
    assert!(said.starts_with("cannot reach the API server at [2001:db8::1]:6443: "), "{said}");
    if said.ends_with("no route to that host") {
        assert_eq!(why.hints(), ["ip route get 2001:db8::1"]);
    } else {
        assert!(said.ends_with("no answer in time"), "{said}");
    }
}

#[tokio::test]
async fn an_address_that_the_certificate_does_not_cover_is_named() {
    let pki = Pki::new();
    let info = cluster_info(&pki, Some(&token()));
    let server = Server::start(&pki, move |_| (200, info.clone())).await;
    let mut request = request(&server, &pki);
    request.endpoint = request.endpoint.replace("127.0.0.1", "127.0.0.2");
    let why = ask(&request).await.0.unwrap_err().to_string();
    assert!(why.contains("does not cover that name (it covers") && why.contains("127.0.0.1"), "{why}");
}

#[tokio::test]
async fn why_nobody_answers() {
    let pki = Pki::new();
    let server = Server::start(&pki, |_| (200, String::new())).await;
    let mut request = request(&server, &pki);
    let plain = server::plain().await;
    let silent = server::silent().await;
    for (endpoint, want) in [
        ("127.0.0.1:1", "connection refused"),
        ("name.invalid:6443", "the name cannot be resolved"),
        (plain.as_str(), "what answers there does not speak TLS"),
        (silent.as_str(), "no answer in time"),
    ] {
        request.endpoint = endpoint.to_owned();
        let (result, said, took) = ask(&request).await;
        let why = result.unwrap_err();
        assert!(why.is_remote());
        assert_eq!(why.to_string(), format!("cannot reach the API server at {endpoint}: {want}"));
        assert_eq!(said, [format!("{why} (trying for 0 s)")], "said at once");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_no_kubernetes() {
    let pki = Pki::new();
    let server = Server::start(&pki, |_| (200, "<html>hello".into())).await;
    let request = request(&server, &pki);
    assert!(matches!(ask(&request).await.0, Err(Trouble::NotReady { .. })));
    server.answer(|_| (404, "<html>not found".into()));
    let (result, _, took) = ask(&request).await;
    assert!(matches!(result, Err(Trouble::NotReady { .. })));
    assert!(took < Duration::from_secs(1), "it will not become one: {took:?}");
    server.answer(|n| (500 + u16::try_from(n % 7).unwrap(), "{}".into()));
    let (result, _, took) = ask(&request).await;
    assert!(matches!(result, Err(Trouble::NotReady { .. })));
    assert!(took < Duration::from_secs(1), "a reason that changes is no new trouble: {took:?}");
    server.answer(|_| (403, r#"{"kind":"Status"}"#.into()));
    let why = ask(&request).await.0.unwrap_err().to_string();
    assert!(why.ends_with("it does not let anonymous clients read cluster-info"), "{why}");
}

mod anything {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body: Vec<u8>, text in "\\PC*") {
            let _ = ClusterInfo::read(&body, &token());
            let _ = ClusterInfo::read(json!({"data": {"kubeconfig": text}}).to_string().as_bytes(), &token());
            let _ = info::place(&text);
        }
    }
}
