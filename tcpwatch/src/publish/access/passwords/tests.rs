//! Passwords against real bcrypt hashes of the lowest cost.

use std::time::Instant;

use super::*;
use crate::config::WebConfig;

const COST: u32 = 4;

fn users(of: &[(&str, &str, u32)]) -> Users {
    let mut text = "basic_auth_users:\n".to_owned();
    for (user, password, cost) in of {
        let hash = bcrypt::hash(password, *cost).expect("a hash");
        text.push_str(&format!("  {user}: {hash}\n"));
    }
    WebConfig::parse(&text, std::path::Path::new("web.yml")).expect("a good file").users
}

fn header(user: &str, password: &str) -> HeaderValue {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
    HeaderValue::from_str(&format!("Basic {encoded}")).expect("ASCII")
}

async fn check(passwords: &Passwords, users: &Users, user: &str, password: &str) -> Verdict {
    passwords.check(users, Some(&header(user, password)), Peer::UNKNOWN).await
}

#[tokio::test]
async fn only_the_right_password_of_a_known_user_is_granted_each_time() {
    let passwords = Passwords::new();
    let users = users(&[("alice", "a:b", COST), ("bob", "b", COST), ("empty", "", COST)]);
    for _ in 0..2 {
        for (user, password, verdict) in [
            ("alice", "a:b", Verdict::Granted),
            ("alice", "a", Verdict::Denied),
            ("alice", "b", Verdict::Denied),
            ("alice", "", Verdict::Denied),
            ("bob", "b", Verdict::Granted),
            ("empty", "", Verdict::Granted),
            ("Alice", "a:b", Verdict::Denied),
            ("", "b", Verdict::Denied),
        ] {
            assert_eq!(check(&passwords, &users, user, password).await, verdict, "{user}");
        }
        // The password of the user whose hash is the decoy is not one for strangers.
        for stranger in 0..20 {
            let stranger = format!("stranger{stranger}");
            for password in ["a:b", "b", ""] {
                let verdict = check(&passwords, &users, &stranger, password).await;
                assert_eq!(verdict, Verdict::Denied);
            }
        }
    }
}

#[tokio::test]
async fn malformed_header_is_denied_and_without_users_every_request_is_granted() {
    let passwords = Passwords::new();
    let users = users(&[("alice", "a", COST)]);
    let encoded = BASE64_STANDARD.encode("alice:a");
    for text in ["", "Basic", "Basic ", "Basic %%%", "Basic YWxpY2U", "Bearer x", &encoded] {
        let header = HeaderValue::from_str(text).expect("ASCII");
        assert_eq!(
            passwords.check(&users, Some(&header), Peer::UNKNOWN).await,
            Verdict::Denied,
            "{text:?}"
        );
    }
    let binary = HeaderValue::from_bytes(b"Basic \xff").expect("bytes that a header may have");
    assert_eq!(passwords.check(&users, Some(&binary), Peer::UNKNOWN).await, Verdict::Denied);
    assert_eq!(passwords.check(&users, None, Peer::UNKNOWN).await, Verdict::Denied);
    let small = HeaderValue::from_str(&format!("bASIC  {encoded}")).expect("ASCII");
    assert_eq!(passwords.check(&users, Some(&small), Peer::UNKNOWN).await, Verdict::Granted);
    assert_eq!(passwords.check(&Users::new(), None, Peer::UNKNOWN).await, Verdict::Granted);
}

#[tokio::test]
async fn peer_that_guesses_has_one_check_at_a_time_and_others_have_theirs() {
    let passwords = Passwords::new();
    let users = users(&[("alice", "a", COST)]);
    let peer = |address: &str| Peer::of(address.parse().expect("an address"));
    let (one, other) = (peer("192.0.2.1"), peer("192.0.2.2"));
    let [first, second, right] = [header("alice", "b"), header("alice", "c"), header("alice", "a")];
    // A check of its own holds the turn until each request has come, so none ends before the next.
    let turn = Arc::clone(&passwords.turn).acquire_owned().await.expect("open");
    let (first, second, right, ()) = tokio::join!(
        biased;
        passwords.check(&users, Some(&first), one),
        passwords.check(&users, Some(&second), one),
        passwords.check(&users, Some(&right), other),
        async { drop(turn) },
    );
    assert_eq!([first, second, right], [Verdict::Denied, Verdict::Busy, Verdict::Granted]);
    // Its turn is over, and its outcome is kept.
    assert_eq!(passwords.check(&users, Some(&header("alice", "c")), one).await, Verdict::Denied);
    assert!(passwords.waiting.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn new_hash_makes_the_old_password_useless_at_once() {
    let passwords = Passwords::new();
    let old = users(&[("alice", "old", COST)]);
    let new = users(&[("alice", "new", COST)]);
    assert_eq!(check(&passwords, &old, "alice", "old").await, Verdict::Granted);
    assert_eq!(check(&passwords, &new, "alice", "old").await, Verdict::Denied);
    let none = users(&[("bob", "b", COST)]);
    assert_eq!(check(&passwords, &none, "alice", "old").await, Verdict::Denied);
}

/// Checks are counted by their time: at cost 10 each takes at least 20 ms on any machine of today.
#[tokio::test]
async fn outcomes_are_kept_and_bad_ones_evict_no_good_one() {
    const CHECK: Duration = Duration::from_millis(20);
    let passwords = Passwords::new();
    let users = users(&[("alice", "a", 10)]);
    let begun = Instant::now();
    assert_eq!(check(&passwords, &users, "alice", "a").await, Verdict::Granted);
    assert!(begun.elapsed() > CHECK, "{:?}", begun.elapsed());
    {
        let mut kept = passwords.kept.lock().expect("no panic");
        for number in 0..10 * MAX_KEPT {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&(number as u64).to_le_bytes());
            kept.keep(digest, false);
        }
        assert!(kept.denied.len() <= MAX_KEPT && kept.granted.len() == 1);
    }
    let begun = Instant::now();
    for _ in 0..100 {
        assert_eq!(check(&passwords, &users, "alice", "a").await, Verdict::Granted);
    }
    assert!(begun.elapsed() < 100 * CHECK, "{:?}", begun.elapsed());
}

/// The shortest of several in turn, each with another password, so that none is kept: a busy machine
/// makes checks longer, never shorter.
#[tokio::test]
async fn unknown_user_takes_the_time_of_a_wrong_password() {
    let passwords = Passwords::new();
    let users = users(&[("alice", "a", 8)]);
    let mut shortest = [Duration::MAX; 2];
    for number in 0..9 {
        for (user, shortest) in ["alice", "stranger"].into_iter().zip(&mut shortest) {
            let begun = Instant::now();
            let verdict = check(&passwords, &users, user, &format!("wrong{number}")).await;
            *shortest = begun.elapsed().min(*shortest);
            assert_eq!(verdict, Verdict::Denied);
        }
    }
    let ratio = shortest[1].as_secs_f64() / shortest[0].as_secs_f64();
    assert!((0.5..2.0).contains(&ratio), "{shortest:?}");
}
