//! Which files come into force: the reloading, without TLS, whose tests are `tests/web_config.rs`.

use std::{env, fs, process};

use super::*;

const USER: &str = "basic_auth_users:\n  alice: \
                    $2y$04$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi\n";

/// A web configuration file that goes with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = env::temp_dir().join(format!("tcpwatch-access-{}-{name}.yml", process::id()));
        fs::write(&path, text).expect("the temporary directory is writable");
        Self(path)
    }

    /// Writes it, has it looked at, and returns the users in force then.
    async fn users_after(&self, access: &Access, text: &str) -> Vec<String> {
        fs::write(&self.0, text).expect("the file is writable");
        self.users(access).await
    }

    async fn users(&self, access: &Access) -> Vec<String> {
        let shared = access.0.as_ref().expect("a file");
        let look = Arc::clone(&shared.look).lock_owned().await;
        Arc::clone(shared).look_now(look).await;
        shared.in_force().users.keys().cloned().collect()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn good_file_comes_into_force_and_a_bad_one_does_not() {
    let file = File::new("good", USER);
    let access = Access::load(&file.0).expect("a good file");
    assert_eq!(file.users_after(&access, &USER.replace("alice", "bob")).await, ["bob"]);
    for bad in ["basic_auth_users:\n  carol: x\n", "basic_auth_users: [", "users: {}\n"] {
        assert_eq!(file.users_after(&access, bad).await, ["bob"], "{bad:?}");
    }
    fs::remove_file(&file.0).expect("it is there");
    assert_eq!(file.users(&access).await, ["bob"]);
    assert_eq!(file.users_after(&access, &USER.replace("alice", "dave")).await, ["dave"]);
}

#[tokio::test]
async fn file_without_a_user_does_not_take_the_password_away() {
    let file = File::new("less", USER);
    let access = Access::load(&file.0).expect("a good file");
    for less in ["", "basic_auth_users: {}\n", "http_server_config:\n"] {
        assert_eq!(file.users_after(&access, less).await, ["alice"], "{less:?}");
    }
    // The other way round needs no restart.
    let file = File::new("more", "");
    let access = Access::load(&file.0).expect("a good file");
    assert_eq!(file.users_after(&access, USER).await, ["alice"]);
}

#[tokio::test]
async fn look_is_taken_once_a_second_and_reads_only_what_has_changed() {
    let file = File::new("often", USER);
    let access = Access::load(&file.0).expect("a good file");
    let shared = access.0.as_ref().expect("a file");
    fs::write(&file.0, USER.replace("alice", "bob")).expect("the file is writable");
    access.terms().await;
    assert_eq!(shared.in_force().users.keys().collect::<Vec<_>>(), ["alice"], "looked at just now");
    tokio::time::sleep_until(shared.look.lock().await.at + LOOK_INTERVAL).await;
    access.terms().await;
    assert_eq!(shared.in_force().users.keys().collect::<Vec<_>>(), ["bob"]);
    // SIGHUP looks at once.
    fs::write(&file.0, USER.replace("alice", "carol")).expect("the file is writable");
    access.look().await;
    assert_eq!(shared.in_force().users.keys().collect::<Vec<_>>(), ["carol"]);
    fs::write(&file.0, USER.replace("alice", "bob")).expect("the file is writable");
    access.look().await;
    let now = shared.in_force();
    assert_eq!(now.users.keys().collect::<Vec<_>>(), ["bob"]);
    file.users(&access).await;
    assert!(Arc::ptr_eq(&now, &shared.in_force()), "read again without a change");
}
