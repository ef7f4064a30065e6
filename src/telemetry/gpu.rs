//! The machine's NVIDIA GPUs, as their driver tells of them.
//!
//! Comes in: NVML, the driver's own library, which is opened when a run is watched and may be missing. Goes out:
//! gauges, brought up to date every other second by a thread of their own, since some answers take 20 ms and a scrape must not.
//! What a GPU does not tell is absent, never an error.

use super::catalogue::{self, Metric};
use super::exporter::Exporter;

/// GPUs that are told of, the first of the driver's: most boxes have no more, and the number of series is bounded.
pub const MOST_GPUS: u32 = 8;

/// What one GPU tells at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GpuReading {
    /// Share of the last moments in which some kernel ran, in 0..=1.
    pub busy: Option<f64>,
    /// In bytes, of all processes.
    pub memory_used: Option<f64>,
    /// In bytes.
    pub memory: Option<f64>,
    /// In watts.
    pub power: Option<f64>,
    /// In degrees Celsius.
    pub temperature: Option<f64>,
    /// In bytes per second, over 20 ms.
    pub pcie_received: Option<f64>,
    pub pcie_sent: Option<f64>,
}

/// Sets the gauges of the GPU with this number, as the driver counts. What it told in the reading `before` and tells no
/// longer is not a number from now on: an exporter cannot take a series back, and the last value would look alive.
pub(super) fn set(exporter: &Exporter, number: u32, reading: &GpuReading, before: &GpuReading) {
    let gpu = number.to_string();
    let set = |metric: &Metric, labels: &[&str], value: fn(&GpuReading) -> Option<f64>| {
        if let Some(value) = value(reading).or(value(before).map(|_| f64::NAN)) {
            exporter.gauge(metric, labels).set(value);
        }
    };
    set(&catalogue::GPU_BUSY, &[&gpu], |gpu| gpu.busy);
    set(&catalogue::GPU_MEMORY_USED, &[&gpu], |gpu| gpu.memory_used);
    set(&catalogue::GPU_MEMORY, &[&gpu], |gpu| gpu.memory);
    set(&catalogue::GPU_POWER, &[&gpu], |gpu| gpu.power);
    set(&catalogue::GPU_TEMPERATURE, &[&gpu], |gpu| gpu.temperature);
    set(&catalogue::GPU_PCIE, &[&gpu, "received"], |gpu| gpu.pcie_received);
    set(&catalogue::GPU_PCIE, &[&gpu, "sent"], |gpu| gpu.pcie_sent);
}

#[cfg(feature = "nvml")]
pub(super) use self::driver::watch;

#[cfg(feature = "nvml")]
mod driver {
    use std::ffi::OsStr;
    use std::io;
    use std::sync::Weak;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
    use std::thread;
    use std::time::Duration;

    use nvml_wrapper::enum_wrappers::device::{PcieUtilCounter, TemperatureSensor};
    use nvml_wrapper::{Device, Nvml};

    use super::super::exporter::Exporter;
    use super::{GpuReading, MOST_GPUS, set};

    /// As often as the fastest scrapes that make sense.
    const EVERY: Duration = Duration::from_secs(2);

    /// Looks at all GPUs every other second until the exporter or what is returned is gone.
    pub fn watch(library: &OsStr, exporter: Weak<Exporter>) -> io::Result<SyncSender<()>> {
        let (watched, ended) = sync_channel(1);
        let library = library.to_owned();
        thread::Builder::new().name("saccade-nvml".into()).spawn(move || look(&library, &exporter, &ended))?;
        Ok(watched)
    }

    fn look(library: &OsStr, exporter: &Weak<Exporter>, ended: &Receiver<()>) {
        let nvml = match Nvml::builder().lib_path(library).init() {
            Ok(nvml) => nvml,
            Err(error) => return tracing::debug!("no metrics of GPUs: {error}"),
        };
        let count = nvml.device_count().unwrap_or(0).min(MOST_GPUS);
        let devices: Vec<(u32, Device<'_>)> =
            (0..count).filter_map(|number| Some((number, nvml.device_by_index(number).ok()?))).collect();
        let mut before = vec![GpuReading::default(); devices.len()];
        loop {
            let Some(exporter) = exporter.upgrade() else { return };
            for ((number, device), before) in devices.iter().zip(&mut before) {
                let reading = reading(device);
                set(&exporter, *number, &reading, before);
                *before = reading;
            }
            drop(exporter);
            if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn reading(device: &Device<'_>) -> GpuReading {
        // NVML tells KB/s and not whether they are of 1,000 or 1,024 bytes; taken as 1,000.
        let pcie = |counter| device.pcie_throughput(counter).ok().map(|kilobytes| f64::from(kilobytes) * 1000.0);
        let memory = device.memory_info().ok();
        GpuReading {
            busy: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
            memory_used: memory.as_ref().map(|memory| memory.used as f64),
            memory: memory.as_ref().map(|memory| memory.total as f64),
            power: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
            temperature: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
            pcie_received: pcie(PcieUtilCounter::Receive),
            pcie_sent: pcie(PcieUtilCounter::Send),
        }
    }
}
