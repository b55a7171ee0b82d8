//! The two models of an evaluation. As a model may fill the device, at most one of them is in memory at a time, and
//! each is loaded again when it is needed.

use std::path::PathBuf;

use tch::Device;

use plumbline_crds::training::Precision;

use crate::Result;
use crate::load::hugging_face::ModelFolder;
use crate::model::decoder::Decoder;
use crate::model::linear::Adapters;
use crate::model::view::ModelView;

/// The model before or after tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The model before tuning.
    Before,
    /// The tuned model.
    After,
}

impl Which {
    /// Its name in progress reports and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// The models before and after tuning.
pub struct Sides {
    held: Option<Decoder>,
    is: Which,
    /// The directories to load them from, before and after; none if both are one decoder, without and with its
    /// adapters.
    folders: Option<[PathBuf; 2]>,
    precision: Precision,
    device: Device,
}

impl Sides {
    /// One decoder: before tuning without its adapters, after tuning with them.
    pub fn of_adapters(model: Decoder, precision: Precision) -> Self {
        let device = model.device();
        Self { held: Some(model), is: Which::Before, folders: None, precision, device }
    }

    /// The models of two directories, the first of which has been loaded.
    pub fn of_folders(before: Decoder, folders: [PathBuf; 2], precision: Precision) -> Self {
        Self { folders: Some(folders), ..Self::of_adapters(before, precision) }
    }

    /// One of the models, loaded from its directory if the other one is in memory.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn side(&mut self, which: Which) -> Result<ModelView<'_>> {
        let model = match (self.held.take(), &self.folders) {
            (Some(model), Some(_)) if self.is == which => model,
            (Some(model), None) => model,
            (other, folders) => {
                drop(other);
                let [before, after] = folders.as_ref().map_or_else(Default::default, Clone::clone);
                let folder = match which {
                    Which::Before => before,
                    Which::After => after,
                };
                ModelFolder::open(&folder)?.decoder(self.precision, self.device)?
            }
        };
        self.is = which;
        let adapters = match which {
            Which::Before => Adapters::Off,
            Which::After => Adapters::On,
        };
        Ok(ModelView { decoder: self.held.insert(model), adapters })
    }
}
