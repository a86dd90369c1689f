//! Where a parameter lives: device buffers, f32 master copy, gradient sum.

use std::collections::HashMap;
use std::ops::Range;

use device::{Binding, Buffer, Device, Executable, Invocation, Mode};
use mil::gradient_name;

use crate::parameter::{CLASSIFIER, EMBEDDING};
use crate::{ModelConfig, Parameter, Result};

/// Where a gradient is summed.
pub(crate) enum Sum {
    /// In the device's own buffer, by `Accumulate` ports.
    Device(Buffer),
    /// In host memory; the device stores each batch's share into the buffer, which layers may
    /// share. Without a buffer the host computes the share itself.
    Host(Option<Buffer>, Vec<f32>),
}

/// A run of elements of a parameter that has a device buffer of its own.
pub(crate) struct Part {
    /// Within the flattened parameter.
    pub(crate) range: Range<usize>,
    /// What programs read; `None` for a table that only the host looks things up in.
    weight: Option<Buffer>,
    /// The f32 master copy, empty when the device's own memory is the master.
    master: Vec<f32>,
    pub(crate) sum: Sum,
}

impl Part {
    pub(crate) fn with_master<T>(&mut self, read: impl FnOnce(&mut [f32]) -> T) -> T {
        if !self.master.is_empty() {
            return read(&mut self.master);
        }
        let buffer = self.weight.as_ref().expect("a part without master has a buffer");
        in_place(buffer, read)
    }

    pub(crate) fn with_sum<T>(&mut self, read: impl FnOnce(&mut [f32]) -> T) -> T {
        match &mut self.sum {
            Sum::Device(buffer) => in_place(buffer, read),
            Sum::Host(_, sum) => read(sum),
        }
    }

    /// The buffer of what a program reads.
    pub(crate) fn weight_buffer(&self) -> Buffer {
        self.weight.clone().expect("what a program reads has a buffer")
    }

    /// The buffer that a program's gradient goes to.
    pub(crate) fn sum_buffer(&self) -> Buffer {
        match &self.sum {
            Sum::Device(buffer) | Sum::Host(Some(buffer), _) => buffer.clone(),
            Sum::Host(None, _) => unreachable!("what a program computes has a buffer"),
        }
    }

    /// Brings the device's copy up to date with the master.
    pub(crate) fn publish(&self) -> Result<()> {
        match &self.weight {
            Some(buffer) if !self.master.is_empty() => Ok(buffer.write_f32(&self.master)?),
            _ => Ok(()),
        }
    }
}

pub(crate) fn in_place<T>(buffer: &Buffer, read: impl FnOnce(&mut [f32]) -> T) -> T {
    let (mut read, mut result) = (Some(read), None);
    let mapped = buffer.map_f32(&mut |values| {
        if let Some(read) = read.take() {
            result = Some(read(values));
        }
    });
    assert!(mapped, "a buffer is used in place only where the device maps it");
    result.expect("map_f32 calls its argument")
}

/// Buffers that layers share, by the name of the value that passes through them.
pub(crate) struct Scratch<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) buffers: HashMap<(String, Vec<usize>), Buffer>,
}

impl Scratch<'_> {
    pub(crate) fn get(&mut self, name: &str, shape: &[usize]) -> Result<Buffer> {
        let key = (name.to_owned(), shape.to_vec());
        if let Some(buffer) = self.buffers.get(&key) {
            return Ok(buffer.clone());
        }
        let buffer = self.device.alloc(shape)?;
        self.buffers.insert(key, buffer.clone());
        Ok(buffer)
    }
}

/// Joins a program to buffers by port name.
pub(crate) fn bind_all(executable: &Executable, bound: &[(&str, Buffer, Mode)]) -> Result<Invocation> {
    let bindings: Vec<Binding<'_>> =
        bound.iter().map(|(port, buffer, mode)| Binding { port, buffer, mode: *mode }).collect();
    Ok(executable.bind(&bindings)?)
}

/// Buffers, master copy and gradient sum of one parameter.
pub(crate) fn allocate(
    config: &ModelConfig,
    device: &dyn Device,
    parameter: &Parameter,
    tile_rows: &[Range<usize>],
    scratch: &mut Scratch<'_>,
) -> Result<Vec<Part>> {
    let host_only = parameter.on_host_only(config);
    let classifier = parameter.name == if config.tied { EMBEDDING } else { CLASSIFIER };
    let part = |range: Range<usize>, shape: Option<Vec<usize>>, scratch: &mut Scratch<'_>| -> Result<Part> {
        let count = range.len();
        let Some(shape) = shape else {
            return Ok(Part {
                range,
                weight: None,
                master: vec![0.0; count],
                sum: Sum::Host(None, vec![0.0; count]),
            });
        };
        let weight = device.alloc(&shape)?;
        let mapped = weight.map_f32(&mut |_| {});
        let sum = if device.limits().accumulate && mapped {
            Sum::Device(device.alloc(&shape)?)
        } else {
            Sum::Host(Some(scratch.get(&gradient_name(parameter.port), &shape)?), vec![0.0; count])
        };
        Ok(Part {
            range,
            weight: Some(weight),
            master: if mapped { Vec::new() } else { vec![0.0; count] },
            sum,
        })
    };
    if host_only {
        return Ok(vec![part(0..parameter.numel(), None, scratch)?]);
    }
    if !classifier {
        return Ok(vec![part(0..parameter.numel(), Some(parameter.port_shape()), scratch)?]);
    }
    let c = config.width;
    tile_rows
        .iter()
        .map(|rows| {
            // Tiles run before any of their gradients is collected, so they do not share scratch.
            let mut own = Scratch { device, buffers: HashMap::new() };
            part(rows.start * c..rows.end * c, Some(vec![1, 1, rows.len(), c]), &mut own)
        })
        .collect()
}
