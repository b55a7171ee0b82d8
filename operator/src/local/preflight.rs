//! What must hold on this machine before anything starts: inputs are there, outputs overwrite nothing. Looks at the
//! file system and changes nothing.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use plumbline_crds::{artifact, regular};
use rustix::fs::{Access, access};

use super::work_dir::WorkDir;
use crate::inputs::{self, From, Shape};
use crate::uri;
use crate::validate::{Manifest, Problem};

/// What every artifact with data has, beside its manifest.
const REPORT: &str = "report.json";

/// All that is wrong.
pub fn check(manifests: &[Manifest], work_dir: &WorkDir) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut names = HashSet::new();
    let mut outputs = HashMap::new();
    for manifest in manifests {
        let resource = &manifest.resource;
        if !names.insert(resource.id()) {
            let message = "expected each kind and name once in a local run, found it in two namespaces; run them with a --work-dir each";
            problems.push(manifest.problem("metadata.namespace", message));
        }
        problems.extend(inputs::wanted(&resource.spec).iter().filter_map(|wanted| input(manifest, wanted)));
        let folder = output_folder(manifest, work_dir);
        if let Some(other) = outputs.insert(folder.clone(), resource.id()) {
            let message = format!("expected a directory of its own, found that of {other}; change one of the two");
            problems.push(manifest.problem("spec.output.uri", message));
        }
        problems.extend(output(manifest, &folder));
    }
    problems
}

/// The folder that a resource's artifact goes to.
pub fn output_folder(manifest: &Manifest, work_dir: &WorkDir) -> PathBuf {
    let resource = &manifest.resource;
    let given = resource.spec.output().uri.as_ref();
    // A URI that is no local path was refused by validation.
    given
        .and_then(|uri| uri::local_output(uri, &manifest.folder).ok())
        .unwrap_or_else(|| work_dir.artifact_folder(resource.kind, &resource.metadata.name))
}

fn input(manifest: &Manifest, wanted: &inputs::Wanted) -> Option<Problem> {
    let From::Uri(uri) = &wanted.from else { return None };
    // What is to be fetched need not be here.
    let path = uri::local_path(uri, &manifest.folder).ok()?;
    let (expected, there) = match wanted.shape {
        Shape::File => ("a file", path.is_file()),
        Shape::Folder => ("a directory", path.is_dir()),
        Shape::FileOrFolder => ("a file or directory", path.is_file() || path.is_dir()),
    };
    // A folder of data may be another program's; one of ours, which has a report, was not written to its end without its
    // manifest.
    let ours = |path: &Path| path.join(REPORT).exists() && !path.join(artifact::MANIFEST).exists();
    if wanted.shape == Shape::FileOrFolder && ours(&path) {
        let message = format!(
            "expected a complete dataset, found one without {} at {}; finish the run that writes it, or copy the whole directory",
            artifact::MANIFEST,
            path.display()
        );
        return Some(manifest.problem(&wanted.path(), message));
    }
    let found = match fs::metadata(&path) {
        Ok(found) => regular::other(found.file_type()).unwrap_or("a file"),
        Err(_) => "nothing",
    };
    let message = format!("expected {expected} at {}, found {found}; put it there or change the path", path.display());
    (!there).then(|| manifest.problem(&wanted.path(), message))
}

/// A finished run replaces its output folder as a whole, so a folder of something else must not be one; and it must be possible
/// to put one there, which would otherwise be found out after everything has been computed.
fn output(manifest: &Manifest, folder: &Path) -> Option<Problem> {
    let occupied = fs::read_dir(folder).map_or(folder.exists(), |mut entries| entries.next().is_some());
    let resource = &manifest.resource;
    let own = artifact::read_manifest(folder)
        .is_ok_and(|m| m.kind == resource.kind.to_string() && m.name == resource.metadata.name);
    if occupied && !own {
        let message = format!(
            "expected an empty directory or an artifact of {}, found other files in {}, which the run would replace; \
             choose another directory",
            resource.id(),
            folder.display()
        );
        return Some(manifest.problem("spec.output.uri", message));
    }
    // The work folder is tried by itself.
    resource.spec.output().uri.as_ref().filter(|uri| !uri::is_store(uri))?;
    // Its own folder is made, and what was in it is moved aside: that changes the folder that it is in.
    let parent = folder.ancestors().skip(1).find(|folder| folder.symlink_metadata().is_ok())?;
    let allowed = if parent.is_dir() {
        access(parent, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| error.to_string())
    } else {
        Err("it is not a directory".to_owned())
    };
    let why = allowed.err()?;
    let message = format!(
        "expected a directory that {} can be made in, found that {} cannot be written: {why}; change its permissions, or choose \
         another directory",
        folder.display(),
        parent.display()
    );
    Some(manifest.problem("spec.output.uri", message))
}
