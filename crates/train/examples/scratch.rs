use std::sync::atomic::AtomicBool;
use train::*;
struct P;
impl Observer for P {
    fn on_step(&mut self, m: &StepMetrics, p: f64) {
        if m.step % 10 == 0 || m.step < 4 {
            println!(
                "{} {:.3} loss {:.4} gn {:.3} lr {:.2e} {:.0} tok/s {:?} act {:?}",
                m.step, p, m.loss, m.grad_norm, m.lr, m.tok_s, m.ms, m.act_max
            );
        }
    }
    fn on_eval(&mut self, s: u64, e: &Evaluation) {
        println!("eval {s} {e:?}");
    }
    fn on_event(&mut self, e: &Event) {
        println!("{e:?}");
    }
}
fn main() {
    let mut c = UserConfig::default();
    for kv in std::env::args().skip(2) {
        let (k, v) = kv.split_once('=').unwrap();
        let v: toml::Value = toml::from_str::<toml::Table>(&format!("x = {v}"))
            .map(|t| t["x"].clone())
            .unwrap_or(v.into());
        c.set(k, v, "arg");
    }
    let dev = std::sync::Arc::new(cpu::CpuDevice::new(0));
    let o = RunOptions {
        start: Start::New {
            config: c,
            runs_dir: "/tmp/truns".into(),
            name: None,
        },
        device: dev,
        cache_dir: std::env::args().nth(1).unwrap().into(),
    };
    println!("{:?}", train_run(o, &mut P, &AtomicBool::new(false)));
}
