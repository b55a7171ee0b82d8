use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::publish::copy;
use super::*;

fn published(root: &Path) -> PathBuf {
    let staging = root.join("staging");
    fs::create_dir_all(staging.join("data")).unwrap();
    fs::write(staging.join("data/a.jsonl"), "{}\n").unwrap();
    fs::write(staging.join("README.md"), "text").unwrap();
    let target = root.join("out");
    publish(&staging, &target, "RewardModel", "r", Vec::new(), "2026-01-01T00:00:00Z".into()).unwrap();
    target
}

#[test]
fn a_published_folder_verifies_and_its_digest_does_not_depend_on_time() {
    let root = tempfile::tempdir().unwrap();
    let target = published(root.path());
    let manifest = verify(&target).unwrap();
    assert_eq!(manifest.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["README.md", "data/a.jsonl"]);
    assert_eq!(digest_path(&target).unwrap(), manifest.digest);
    fs::remove_file(target.join(MANIFEST)).unwrap();
    assert_eq!(digest_path(&target).unwrap(), manifest.digest, "a plain folder has the digest of its files");
}

#[test]
fn an_incomplete_or_altered_folder_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let target = published(root.path());
    fs::write(target.join("README.md"), "texT").unwrap();
    let error = verify(&target).unwrap_err().to_string();
    assert!(error.contains("README.md") && error.contains("altered"), "{error}");
    fs::write(target.join("README.md"), "texts").unwrap();
    assert!(verify(&target).unwrap_err().to_string().contains("5 bytes"));
    fs::remove_file(target.join("README.md")).unwrap();
    assert!(verify(&target).unwrap_err().to_string().contains("missing"));
    fs::remove_file(target.join(MANIFEST)).unwrap();
    assert!(matches!(verify(&target), Err(ArtifactError::Incomplete { .. })));
}

#[test]
fn what_the_manifest_does_not_name_is_refused_wherever_it_is_and_whatever_it_is() {
    let root = tempfile::tempdir().unwrap();
    let target = published(root.path());
    let extra = |name: &str| target.join(name);
    for name in ["model.safetensors.index.json", "data/train-00001.jsonl", "chat_template.jinja", "deep/er/x"] {
        fs::create_dir_all(extra(name).parent().unwrap()).unwrap();
        fs::write(extra(name), "x").unwrap();
        let error = verify(&target).unwrap_err();
        assert!(matches!(&error, ArtifactError::Altered { .. }), "{error}");
        assert!(error.to_string().contains(&format!("altered: {name} is not in the manifest")), "{error}");
        assert!(digest_path(&target).is_err(), "as an input it has no digest");
        fs::remove_file(extra(name)).unwrap();
    }
    mknodat(CWD, extra("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(verify(&target).unwrap_err().to_string().contains("pipe is not in the manifest"));
    fs::remove_file(extra("pipe")).unwrap();
    symlink(root.path(), extra("elsewhere")).unwrap();
    assert!(verify(&target).unwrap_err().to_string().contains("elsewhere is not in the manifest"));
    fs::remove_file(extra("elsewhere")).unwrap();
    // What operating systems and tools leave there.
    fs::create_dir(extra("lost+found")).unwrap();
    fs::create_dir(extra(".cache")).unwrap();
    for name in [".DS_Store", ".gitattributes", ".cache/x", "lost+found/1"] {
        fs::write(extra(name), "x").unwrap();
    }
    verify(&target).unwrap();
}

#[test]
fn a_named_file_may_be_a_link_to_its_content_and_to_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let target = published(root.path());
    let (file, blob) = (target.join("data/a.jsonl"), root.path().join("blob"));
    fs::rename(&file, &blob).unwrap();
    symlink("../../blob", &file).unwrap();
    verify(&target).unwrap();
    for (other, what) in [("/etc/passwd", "bytes where"), ("/dev/zero", "is a device"), ("/", "link to a directory")] {
        fs::remove_file(&file).unwrap();
        symlink(other, &file).unwrap();
        let error = verify(&target).unwrap_err().to_string();
        assert!(error.contains("data/a.jsonl") && error.contains(what), "{error}");
    }
}

#[test]
fn a_manifest_that_names_what_is_not_below_its_folder_or_anything_twice_is_refused_before_a_file_is_opened() {
    let root = tempfile::tempdir().unwrap();
    let target = published(root.path());
    let text = fs::read_to_string(target.join(MANIFEST)).unwrap();
    let refused = |from: &str, to: &str, what: &str| {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        fs::write(target.join(MANIFEST), changed).unwrap();
        let error = verify(&target).unwrap_err();
        assert!(matches!(error, ArtifactError::Unreadable { .. }) && error.to_string().contains(what), "{error}");
    };
    for path in ["/dev/zero", "../out/data/a.jsonl", "data//a.jsonl", "./data/a.jsonl", "", "data/a\\u0000"] {
        refused("data/a.jsonl", path, "not a path below a directory");
    }
    refused("data/a.jsonl", "README.md", "README.md\" again");
    refused("data/a.jsonl", "manifest.json", "manifest.json\" again");
    refused("\"size\": 4", "\"size\": 18446744073709551615", "more than an artifact");
    refused("\"size\": 4", "\"size\": -1", "invalid value");
    refused("\"schemaVersion\": 1", "\"schemaVersion\": 2", "expected schemaVersion 1");
    refused("\"sha256\": \"", "\"sha256\": \"X", "64 lower-case");
}

#[test]
fn a_manifest_that_is_no_file_is_refused_and_does_not_make_the_folder_a_plain_one() {
    let root = tempfile::tempdir().unwrap();
    let target = published(root.path());
    let manifest = target.join(MANIFEST);
    fs::remove_file(&manifest).unwrap();
    mknodat(CWD, &manifest, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(digest_path(&target).unwrap_err().to_string().contains("a named pipe"));
    fs::remove_file(&manifest).unwrap();
    symlink("nowhere", &manifest).unwrap();
    assert!(digest_path(&target).unwrap_err().to_string().contains("manifest.json"));
}

#[test]
fn a_plain_input_with_a_pipe_a_device_or_a_circle_has_no_digest_and_is_named() {
    let root = tempfile::tempdir().unwrap();
    let (model, pipe) = (root.path().join("model"), root.path().join("model/pipe"));
    fs::create_dir(&model).unwrap();
    fs::write(model.join("config.json"), "{}").unwrap();
    let honest = digest_path(&model).unwrap();
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(digest_path(&model).unwrap_err().to_string().contains("model/pipe: is a named pipe"));
    assert!(digest_path(&pipe).unwrap_err().to_string().contains("a named pipe"));
    fs::remove_file(&pipe).unwrap();
    for target in ["/dev/zero", ".", "/usr/share", "/proc/self/status"] {
        symlink(target, &pipe).unwrap();
        let error = digest_path(&model).unwrap_err().to_string();
        assert!(error.contains("pipe"), "{target}: {error}");
        fs::remove_file(&pipe).unwrap();
    }
    fs::write(model.join(".DS_Store"), "x").unwrap();
    assert_eq!(digest_path(&model).unwrap(), honest);
}

/// Bounded: single changes of a manifest at every byte, and cuts.
#[test]
fn no_changed_manifest_is_accepted_as_another_artifact() {
    let root = tempfile::tempdir().unwrap();
    let target = published(root.path());
    let manifest = target.join(MANIFEST);
    let honest = verify(&target).unwrap();
    let text = fs::read(&manifest).unwrap();
    for at in 0..text.len() {
        for changed in [b'/', b'0', 0xff] {
            let mut other = text.clone();
            other[at] = changed;
            fs::write(&manifest, &other).unwrap();
            if let Ok(found) = verify(&target) {
                assert_eq!((&found.digest, &found.files), (&honest.digest, &honest.files), "byte {at}");
            }
        }
        fs::write(&manifest, &text[..at]).unwrap();
        assert!(verify(&target).is_err(), "cut at {at}");
    }
}

#[test]
fn what_comes_from_another_file_system_is_copied_whole() {
    let root = tempfile::tempdir().unwrap();
    let (staging, target) = (root.path().join("staging"), root.path().join("out"));
    fs::create_dir_all(staging.join("data")).unwrap();
    fs::write(staging.join("data/a.jsonl"), "{}\n").unwrap();
    // What an attempt that was killed has left.
    copy(&staging, &target.with_added_extension("arriving")).unwrap();
    assert_eq!(fs::read(root.path().join("out.arriving/data/a.jsonl")).unwrap(), b"{}\n");
    publish(&staging, &target, "Model", "m", Vec::new(), String::new()).unwrap();
    verify(&target).unwrap();
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn publishing_a_folder_with_a_dot_in_its_name_leaves_its_neighbours_alone() {
    let root = tempfile::tempdir().unwrap();
    let neighbour = root.path().join("model.replaced");
    fs::create_dir_all(&neighbour).unwrap();
    for _ in 0..2 {
        let staging = root.path().join("staging");
        fs::create_dir_all(&staging).unwrap();
        fs::write(staging.join("a"), "a").unwrap();
        publish(&staging, &root.path().join("model.v1"), "RewardModel", "r", Vec::new(), String::new()).unwrap();
    }
    assert!(neighbour.exists());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "what was replaced is gone");
}
