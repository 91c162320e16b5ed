//! Another user of the machine can neither read relink's data nor connect to relink's own nats-server.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failing test should name the line")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::binary::{Relink, client};
use crate::support::{server_source, within};
use relink::nats::connection::Access;
use relink::nats::server_binary::locate;
use relink::nats::server_login::url_file;
use secrecy::ExposeSecret;
use serde_json::json;

/// Everything in this directory, and the directory itself, that other users can read, write or enter.
fn open_to_others(path: &Path) -> Vec<PathBuf> {
    let metadata = fs::symlink_metadata(path).unwrap();
    let mut found = Vec::new();
    if metadata.permissions().mode() & 0o077 != 0 {
        found.push(path.to_owned());
    }
    if metadata.is_dir() {
        found.extend(fs::read_dir(path).unwrap().flat_map(|entry| open_to_others(&entry.unwrap().path())));
    }
    found
}

/// Starts relink with its own nats-server.
async fn serve(data_dir: &Path) -> Relink {
    let binary = locate(server_source()).await.unwrap();
    Relink::serve("", data_dir, &[("RELINK_NATS_SERVER", binary.to_str().unwrap())]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_users_can_neither_read_the_data_nor_use_the_own_server() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    // An earlier version has left directories that everybody can enter.
    for directory in ["store", "nats"] {
        fs::create_dir_all(data_dir.join(directory)).unwrap();
        fs::set_permissions(data_dir.join(directory), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&data_dir, fs::Permissions::from_mode(0o700)).unwrap();
    let mut urls = Vec::new();
    for _ in 0..2 {
        let mut relink = serve(&data_dir).await;
        let webhook = json!({"webhook_id": "w-1", "webhook_type": "LINK", "webhook_code": "token_required",
            "link_id": "16f68516-bcbc-4cf7-b815-c500d4204e28", "external_id": "maria", "data": {}});
        assert_eq!(within("an answer", relink.webhook(&client(), webhook.to_string())).await, Some(200));
        assert_eq!(open_to_others(&data_dir), Vec::<PathBuf>::new());

        let url = fs::read_to_string(url_file(&data_dir.join("nats"))).unwrap();
        let (user, host) = url.trim_start_matches("nats://").split_once('@').unwrap();
        let stranger = async_nats::connect(format!("nats://{host}")).await;
        assert_eq!(stranger.unwrap_err().kind(), async_nats::ConnectErrorKind::AuthorizationViolation);
        let guess = Access::of_urls([format!("nats://relink:guess@{host}").as_str()]).unwrap();
        assert!(guess.connect("stranger").await.is_err());
        let owner = Access::of_urls([url.as_str()]).unwrap().connect("owner").await.unwrap();
        let stream = async_nats::jetstream::new(owner).get_stream("BELVO").await;
        assert!(stream.is_ok(), "the file has the address for the programs of relink's user");

        relink.signal("TERM").await;
        assert!(relink.ended().await.success());
        let password = user.strip_prefix("relink:").unwrap();
        let server_log = fs::read_to_string(data_dir.join("nats/nats-server.log")).unwrap();
        let log = format!("{}{server_log}", relink.seen.join("\n"));
        assert!(log.contains(host) && !log.contains(password), "the address is logged, the password is not");
        urls.push(url);
    }
    assert_eq!(urls[0], urls[1], "the password and the port stay the same");
}

#[tokio::test]
async fn a_data_directory_of_relink_alone_is_private_and_a_shared_one_keeps_its_mode() {
    let folder = tempfile::tempdir().unwrap();
    let open = |directory: &str, parts: &[&str]| {
        let directory = folder.path().join(directory);
        for path in parts.iter().map(|part| directory.join(part)).chain([directory.clone()]) {
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        directory
    };
    let (old, shared) =
        (open("old", &["nats", "store.quarantine-1"]), open("shared", &["store.quarantine-1", "photos"]));
    for (data_dir, mode) in [(folder.path().join("new"), 0o700), (old, 0o700), (shared.clone(), 0o755)] {
        let mut config = relink::config::Config::defaults();
        config.http.listen = ([127, 0, 0, 1], 0).into();
        config.http.allow_open_webhooks = true;
        config.store.data_dir.clone_from(&data_dir);
        let service = relink::service::Service::start(&config, server_source()).await.unwrap();
        assert!(service.own_nats_url_with_login().unwrap().expose_secret().starts_with("nats://relink:"));
        let mode_of = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode_of(&data_dir), mode, "{}", data_dir.display());
        if mode != 0o700 {
            for part in ["store", "nats", "store.quarantine-1"] {
                assert_eq!(mode_of(&data_dir.join(part)), 0o700, "{part}");
            }
            assert_eq!(mode_of(&data_dir.join("photos")), 0o755, "it is not relink's");
        }
        service.stop().await.unwrap();
    }
}

/// The port of relink's own nats-server: a port that is set must be free, one that is not set may change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_an_error_only_if_it_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut config = relink::config::Config::defaults();
    config.http.listen = ([127, 0, 0, 1], 0).into();
    folder.path().join("data").clone_into(&mut config.store.data_dir);
    config.nats.port = Some(port);
    let refused = relink::service::Service::start(&config, server_source()).await.map(drop).unwrap_err();
    assert!(format!("{refused:#}").contains(&format!("the port {port} of 127.0.0.1 is in use")), "{refused:#}");

    config.nats.port = None;
    fs::write(url_file(&config.store.data_dir.join("nats")), format!("nats://relink:p4ss@127.0.0.1:{port}")).unwrap();
    let service = relink::service::Service::start(&config, server_source()).await.unwrap();
    assert!(!service.nats_url().ends_with(&format!(":{port}")), "{}", service.nats_url());
    service.stop().await.unwrap();
}
