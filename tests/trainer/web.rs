//! What a web server, a hub or a store sends that it should not: the fetch ends by name, soon, and nothing of it becomes an input.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use plumbline_testkit::programs::{code, text};
use plumbline_testkit::raw_server::{RawServer, redirect};
use plumbline_testkit::small_disk::SmallDisk;
use plumbline_testkit::{chain, fixture, programs};
use serde_json::json;

/// A fetch that is refused takes a second; one that is tried again takes longer than this.
const SOON: Duration = Duration::from_mins(1);

/// Fetches what a URI names, with the hub and the store at an address.
fn fetch(root: &Path, uri: &str, hub: &str) -> Output {
    let document = json!({
        "resource": chain::reward("reward", "data"), "output": root.join("out"), "work": root.join("work"),
        "inputs": [{"role": "baseModel", "name": "m", "path": root.join("input"), "source": uri}],
    });
    std::fs::write(root.join("run.yaml"), serde_yaml::to_string(&document).unwrap()).unwrap();
    let mut command = std::process::Command::new(programs::trainer());
    command.args(["fetch", "--run"]).arg(root.join("run.yaml")).env("HF_ENDPOINT", hub).env("HF_TOKEN", "hf_secret");
    command.envs([("AWS_ENDPOINT_URL", hub), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "us-east-1")]);
    command.envs([("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hf_secret")]);
    command.output().unwrap()
}

/// The fetch ends as a fault of the data, at once, and says each of `words`.
#[track_caller]
fn is_refused(uri: &str, hub: &str, words: &[&str]) {
    let root = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let output = fetch(root.path(), uri, hub);
    let said = text(&output.stderr);
    assert_eq!(code(&output), 3, "{said}");
    assert!(begun.elapsed() < SOON && !said.contains("hf_secret"), "{said}");
    for word in words {
        assert!(said.contains(word), "expected `{word}`: {said}");
    }
    assert!(!root.path().join("input").exists(), "it is no input");
}

fn chunked(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
    let piece = vec![b'x'; 1 << 16];
    loop {
        stream.write_all(b"10000\r\n")?;
        stream.write_all(&piece)?;
        stream.write_all(b"\r\n")?;
    }
}

#[test]
fn a_body_that_says_neither_its_length_nor_its_end_is_not_taken_for_whole() {
    let server = RawServer::start(Box::new(|_, _, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\na whole line\nand ha")
    }));
    is_refused(&format!("{}/a.txt", server.address()), server.address(), &["neither the length", "/a.txt"]);
    assert_eq!(server.requests(), 1, "retrying would not help");
}

#[test]
fn a_body_without_an_end_stops_long_before_the_disk_is_full() {
    let server = RawServer::start(Box::new(|_, _, stream| chunked(stream)));
    let disk = SmallDisk::new();
    let at = |name: &str| disk.mounted().join(name);
    let document = json!({
        "resource": chain::reward("reward", "data"), "output": at("out"), "work": at("work"),
        "inputs": [{"role": "dataset", "name": "d", "path": at("input"), "source": format!("{}/a.jsonl", server.address())}],
    });
    std::fs::write(disk.beside("run.yaml"), serde_yaml::to_string(&document).unwrap()).unwrap();
    let commands = "code=0; \"$TRAINER\" fetch --run run.yaml >&2 || code=$?\n\
        echo $code; du -sk \"$DISK\" | cut -f1; test ! -e \"$DISK/input\"";
    let output = disk.bash("32m", commands);
    let printed = text(&output.stdout);
    let numbers: Vec<u64> = printed.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(numbers[0], 3, "{}", text(&output.stderr));
    assert!(numbers[1] < 1024, "nothing of it is left: {} KiB", numbers[1]);
    assert!(text(&output.stderr).contains("bytes, found more"), "{}", text(&output.stderr));
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_file_that_is_announced_as_longer_than_any_is_refused_before_a_byte_is_written() {
    let server = RawServer::start(Box::new(|_, _, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 20000000000000\r\n\r\nx")?;
        std::thread::sleep(SOON);
        Ok(())
    }));
    is_refused(&format!("{}/a.txt", server.address()), server.address(), &["20000000000000", "bucket"]);
}

#[test]
fn a_server_sends_us_on_to_no_other_scheme_no_network_of_this_machine_and_not_for_ever() {
    for (to, words) in [
        ("ftp://127.0.0.1/a", "expected https://"),
        ("http://169.254.169.254/latest/meta-data", "private network"),
        ("/again", "more than 10 times"),
    ] {
        let server = RawServer::start(Box::new(move |_, _, stream| redirect(stream, to)));
        is_refused(&format!("{}/a.txt", server.address()), server.address(), &[words]);
    }
}

#[test]
fn a_token_goes_to_the_hub_and_to_no_server_that_it_sends_us_on_to() {
    let other = RawServer::start(Box::new(|_, _, stream| {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
    }));
    let to = format!("{}/elsewhere", other.address());
    let hub = RawServer::start(Box::new(move |_, _, stream| redirect(stream, &to)));
    is_refused("hf://org/tiny", hub.address(), &["404"]);
    assert!(hub.headers()[0].contains("authorization: bearer hf_secret"), "{:?}", hub.headers());
    assert!(!other.headers().is_empty() && other.headers().iter().all(|h| !h.contains("authorization")));
}

#[test]
fn a_listing_that_never_ends_or_names_impossible_files_is_a_fault_of_the_data_at_once() {
    let endless = RawServer::start(Box::new(|_, _, stream| chunked(stream)));
    is_refused("hf://org/tiny", endless.address(), &["at most 33554432 bytes"]);

    let long = "n".repeat(305) + ".json";
    for names in [&["a\0.json"][..], &["config.json", "config.json"], &[&long], &["../config.json"]] {
        let files: Vec<_> = names.iter().map(|name| json!({"rfilename": name, "size": 3})).collect();
        let listing = json!({"sha": "c0ffee", "siblings": files}).to_string();
        let server = RawServer::start(Box::new(move |_, _, stream| {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{listing}", listing.len())
        }));
        is_refused("hf://org/tiny", server.address(), &["hub's description of a repository"]);
        assert_eq!(server.requests(), 1);
    }
}

/// A store of one bucket, `b`, that lists keys, as they are written in XML, each of `size` bytes, and has none of them.
fn store_that_lists(size: usize, keys: &'static [&'static str]) -> RawServer {
    RawServer::start(Box::new(move |path, _, stream| {
        if !path.contains("list-type") {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        let prefix = path.split("prefix=").nth(1).unwrap().split('&').next().unwrap().replace("%2F", "/");
        let below = keys.iter().filter(|key| prefix == "m/" || key.starts_with(&prefix));
        let objects: Vec<String> = below
            .map(|key| {
                format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                     <ETag>&quot;e&quot;</ETag><Size>{size}</Size></Contents>"
                )
            })
            .collect();
        let objects = objects.concat();
        let body = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{objects}</ListBucketResult>");
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }))
}

#[test]
fn a_store_that_lists_keys_which_are_no_files_below_the_one_that_was_asked_for_is_refused_by_name() {
    for (keys, words) in [
        (&["elsewhere/x.jsonl"][..], "\"elsewhere/x.jsonl\" is not below m"),
        (&["m/a", "mm/x.jsonl"], "\"mm/x.jsonl\" is not below m"),
        (&["m/a", "m/a"], "\"m/a\" is listed twice"),
        (&["m/x/"], "m/x/ ends in a slash"),
        (&["m/"], "m/ ends in a slash"),
        (&["m/a&#10;2026-01-01T00:00:00Z  INFO everything is well"], "a\\n2026-01-01T00:00:00Z"),
    ] {
        let server = store_that_lists(3, keys);
        is_refused("s3://b/m", server.address(), &[words]);
    }
}

#[test]
fn a_key_that_stands_for_an_empty_folder_is_no_file_and_no_fault() {
    let server = store_that_lists(0, &["m/x/"]);
    let root = tempfile::tempdir().unwrap();
    let output = fetch(root.path(), "s3://b/m", server.address());
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(!root.path().join("input/x").is_file());
}

#[test]
fn http_is_for_this_machine_alone() {
    is_an_invalid_manifest("http://data.example/a.jsonl", "expected https://");
    is_an_invalid_manifest("http://10.0.0.1/a.jsonl", "expected https://");
}

#[track_caller]
fn is_an_invalid_manifest(uri: &str, words: &str) {
    let change = json!({"datasetRef": null, "dataset": {"uri": uri}, "baseModel": {"uri": fixture::uri("tiny")}});
    let place = plumbline_testkit::place::Place::new(&[chain::with(chain::reward("reward", ""), &change)]);
    let ended = place.run();
    assert_eq!(ended.code(), 2, "{}", ended.said());
    assert!(ended.said().contains("spec.dataset.uri") && ended.said().contains(words), "{}", ended.said());
}
