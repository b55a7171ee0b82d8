//! safetensors files: the header is read once, tensors through mmap. A weight must be floating-point, finite and of the
//! expected shape; anything else is an error that names the file and the tensor.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use plumbline_feedback::heartbeat;
use plumbline_torch::Mmap;
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use tch::{Kind, Tensor};

use crate::torch_error::of_torch;
use crate::{Error, Result};

/// An open file.
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    /// Byte offset of the tensors' data.
    data: usize,
    tensors: BTreeMap<String, TensorInfo>,
}

impl TensorFile {
    /// Opens a file and reads its header. The library checks that the tensors fill the file, in order and without
    /// overlap.
    ///
    /// # Errors
    /// [`Error::Data`] when it is not a complete safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let map = plumbline_torch::map_file(path).map_err(|e| Error::Data(format!("{}: {e}", path.display())))?;
        if map.starts_with(b"version https://git-lfs") {
            let what = "a Git LFS pointer, not the weights; fetch them with `git lfs pull`";
            return Err(Error::Data(format!("{}: {what}", path.display())));
        }
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            Error::Data(format!(
                "{}: not a complete safetensors file: {e}; download or create it again",
                path.display()
            ))
        })?;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { path: path.to_owned(), data: size_of::<u64>() + header, map, tensors })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The kind that a weight is stored in.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no such tensor, or when it is not floating-point.
    pub fn weight_kind(&self, name: &str) -> Result<Kind> {
        let dtype = self.info(name)?.dtype;
        kind_of(dtype).filter(|kind| is_float(*kind)).ok_or_else(|| {
            self.wrong(
                name,
                &format!("has dtype {dtype}; expected F32, F16 or BF16 (quantised weights are not supported)"),
            )
        })
    }

    /// A weight with a given shape, converted to a given kind.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no such tensor, when it has another shape, or when its values are not
    /// floating-point numbers that are finite in that kind.
    pub fn weight(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor> {
        heartbeat::beat();
        let stored = self.weight_kind(name)?;
        let found = &self.info(name)?.shape;
        if !found.iter().map(|n| i64::try_from(*n)).eq(shape.iter().map(|n| Ok(*n))) {
            return Err(self.wrong(name, &format!("has shape {found:?}; expected {shape:?}")));
        }
        let tensor = Tensor::f_from_data_size(self.bytes(name)?, shape, stored).map_err(of_torch)?;
        let tensor = if stored == kind { tensor } else { tensor.to_kind(kind) };
        match not_finite(&tensor) {
            None => Ok(tensor),
            Some((count, first)) => Err(self.wrong(
                name,
                &format!(
                    "has {count} values that are not finite, the first at {first:?}; the file is damaged, or \
                          training diverged"
                ),
            )),
        }
    }

    /// The bytes of a tensor.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let (start, end) = self.info(name)?.data_offsets;
        // The header has been checked against the file's length.
        self.map.get(self.data + start..self.data + end).ok_or_else(|| {
            self.wrong(
                name,
                "extends beyond the end of \
                                                                                         the file",
            )
        })
    }

    /// Every tensor, in the kind it is stored in.
    fn all(&self) -> Result<BTreeMap<String, Tensor>> {
        let read = |(name, info): (&String, &TensorInfo)| {
            let kind = kind_of(info.dtype)
                .ok_or_else(|| self.wrong(name, &format!("has dtype {}, which is not supported", info.dtype)))?;
            let shape = info.shape.iter().map(|n| i64::try_from(*n)).collect::<Result<Vec<_>, _>>();
            let numbers = shape.as_ref().ok().and_then(|s| s.iter().try_fold(1i64, |n, d| n.checked_mul(*d)));
            let (Ok(shape), Some(_)) = (shape, numbers) else {
                return Err(self.wrong(name, &format!("has the impossible shape {:?}", info.shape)));
            };
            Ok((name.clone(), Tensor::f_from_data_size(self.bytes(name)?, &shape, kind).map_err(of_torch)?))
        };
        self.tensors.iter().map(read).collect()
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::Data(format!("{}: tensor '{name}' is missing", self.path.display())))
    }

    fn wrong(&self, name: &str, what: &str) -> Error {
        Error::Data(format!("{}: tensor '{name}' {what}", self.path.display()))
    }
}

/// How many elements of a tensor are not finite, and the indices of the first ones; `None` if all are finite.
pub fn not_finite(tensor: &Tensor) -> Option<(i64, Vec<i64>)> {
    if tensor.numel() == 0 {
        return None;
    }
    // The minimum and maximum of a tensor with a NaN are NaN. This is one pass, and the fastest check for every kind.
    let (least, most) = tensor.aminmax(None, false);
    if least.double_value(&[]).is_finite() && most.double_value(&[]).is_finite() {
        return None;
    }
    let places = tensor.isfinite().logical_not().nonzero();
    let count = places.size()[0];
    let first = (count > 0).then(|| Vec::<i64>::try_from(places.get(0)).unwrap_or_default())?;
    Some((count, first))
}

/// Every tensor of a safetensors file, in the kind it is stored in.
pub fn read_safetensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    TensorFile::open(path)?.all()
}

/// Writes tensors as one safetensors file, ordered by name, each in its own kind. At most one tensor's bytes are in
/// memory at a time.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    write_in_kinds(path, tensors.iter().map(|(name, t)| (name.as_str(), t, t.kind())))
}

/// The same, converting each tensor to a given kind.
pub(super) fn write_in_kinds<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, &'a Tensor, Kind)>,
) -> Result<()> {
    heartbeat::beat();
    let saved = tensors
        .map(|(name, tensor, kind)| {
            let (dtype, size) = dtype_of(kind)
                .ok_or_else(|| Error::Failed(format!("'{name}': tensors of type {kind:?} cannot be saved")))?;
            let shape = tensor.size().iter().map(|&n| n as usize).collect();
            Ok((name, Saved { tensor, kind, dtype, shape, bytes: tensor.numel() * size }))
        })
        .collect::<Result<Vec<_>>>()?;
    // transformers rejects files without the name of a framework.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let store = |e: std::io::Error| Error::disk(path, e);
    // The library writes a temporary file that only its owner can read; a model is often served by another user. The
    // old file is opened without truncating, as it may be mapped.
    let usual = File::options().create(true).append(true).open(path).and_then(|file| file.metadata()).map_err(store)?;
    safetensors::serialize_to_file(saved, Some(metadata), path).map_err(|e| match e {
        SafeTensorError::IoError(e) => store(e),
        other => Error::Failed(format!("{}: {other}", path.display())),
    })?;
    fs::set_permissions(path, usual.permissions()).map_err(store)
}

/// A tensor that is being written.
struct Saved<'a> {
    tensor: &'a Tensor,
    kind: Kind,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
}

impl View for Saved<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut data = vec![0u8; self.bytes];
        self.tensor.detach().to_kind(self.kind).contiguous().copy_data_u8(&mut data, self.tensor.numel());
        data.into()
    }

    fn data_len(&self) -> usize {
        self.bytes
    }
}

/// The safetensors data type of a kind, and its size in bytes.
pub(super) fn dtype_of(kind: Kind) -> Option<(Dtype, usize)> {
    Some(match kind {
        Kind::Float => (Dtype::F32, 4),
        Kind::Half => (Dtype::F16, 2),
        Kind::BFloat16 => (Dtype::BF16, 2),
        Kind::Int64 => (Dtype::I64, 8),
        Kind::Uint8 => (Dtype::U8, 1),
        _ => return None,
    })
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    [Kind::Float, Kind::Half, Kind::BFloat16, Kind::Int64, Kind::Uint8]
        .into_iter()
        .find(|kind| dtype_of(*kind).is_some_and(|(of_kind, _)| of_kind == dtype))
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn weights_have_the_permissions_of_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let (weights, other) = (folder.path().join("model.safetensors"), folder.path().join("config.json"));
        fs::write(&other, "{}").unwrap();
        let tensors = [("a".to_owned(), Tensor::ones([2, 3], (Kind::Float, Device::Cpu)))].into();
        for _ in 0..2 {
            write_safetensors(&weights, &tensors).unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions();
            assert_eq!(mode(&weights), mode(&other));
        }
        assert_eq!(read_safetensors(&weights).unwrap()["a"], tensors["a"]);
    }

    #[test]
    fn non_finite_values_are_rejected_in_every_kind_and_huge_ones_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let huge = [(Kind::Float, 3e38), (Kind::BFloat16, 3e38), (Kind::Half, 65504.0)];
        for (kind, most) in huge {
            for (value, finite) in [(f64::NAN, false), (f64::INFINITY, false), (f64::NEG_INFINITY, false), (most, true)]
            {
                let weight = Tensor::zeros([3, 5], (kind, Device::Cpu));
                let _ = weight.get(1).fill_(value);
                write_safetensors(&path, &[("w".to_owned(), weight)].into()).unwrap();
                let read = TensorFile::open(&path).unwrap().weight("w", &[3, 5], kind);
                assert_eq!(read.is_ok(), finite, "{kind:?} {value}");
                if let Err(error) = read {
                    assert!(matches!(&error, Error::Data(_)), "{error}");
                    let said = error.to_string();
                    assert!(
                        said.contains(
                            "w.safetensors: tensor 'w' has 5 values that are not finite, the first at [1, 0]"
                        ),
                        "{said}"
                    );
                }
            }
        }
    }

    #[test]
    fn integer_tensors_are_rejected_as_weights() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        for kind in [Kind::Int64, Kind::Uint8] {
            write_safetensors(&path, &[("w".to_owned(), Tensor::ones([2], (kind, Device::Cpu)))].into()).unwrap();
            let said = TensorFile::open(&path).unwrap().weight("w", &[2], Kind::Float).unwrap_err().to_string();
            assert!(said.contains("expected F32, F16 or BF16"), "{said}");
        }
    }
}
