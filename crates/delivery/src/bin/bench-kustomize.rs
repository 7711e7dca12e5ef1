//! Builds a large generated overlay beside `kubectl kustomize`, in turns, and prints both times and their ratio.
//!
//! Usage: `cargo run --release -p delivery --bin bench-kustomize [APPS [TURNS]]`. Both are started as processes of their
//! own, so that starting counts; every turn checks that the outputs are equal.

use delivery::kustomize::{self, Options};
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, folder] = &arguments[..]
        && command == "build"
    {
        print!("{}", kustomize::to_yaml(&kustomize::build(Path::new(folder), &Options::default())?));
        return Ok(ExitCode::SUCCESS);
    }
    let number = |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (apps, turns) = (number(0, 250)?, number(1, 7)?);
    let folder = tempfile::tempdir()?;
    write(folder.path(), apps)?;
    let overlay = folder.path().join("overlay");
    let own = std::env::current_exe()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        let (built, took) = timed(Command::new(&own).arg("build").arg(&overlay))?;
        ours.push(took);
        let (wanted, took) = timed(Command::new("kubectl").arg("kustomize").arg(&overlay))?;
        theirs.push(took);
        if built != wanted {
            return Err("the outputs differ".into());
        }
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    println!("{} resources, {turns} turns, medians:", apps * 4);
    println!("  ours     {ours:>10.1?}");
    println!("  kubectl  {theirs:>10.1?}");
    println!("  ratio    {:>9.1}x", theirs.as_secs_f64() / ours.as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

fn timed(command: &mut Command) -> Result<(Vec<u8>, Duration), Box<dyn Error>> {
    let began = Instant::now();
    let output = command.output()?;
    let took = began.elapsed();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok((output.stdout, took))
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A base with a Deployment, a Service, an account and a generated ConfigMap for each application, and an overlay that
/// renames, labels and patches all of them.
fn write(folder: &Path, apps: usize) -> Result<(), Box<dyn Error>> {
    let (base, overlay) = (folder.join("base"), folder.join("overlay"));
    std::fs::create_dir_all(&base)?;
    std::fs::create_dir_all(&overlay)?;
    let (mut resources, mut generators, mut patches) = (String::new(), String::new(), String::new());
    for app in 0..apps {
        std::fs::write(base.join(format!("app{app}.yaml")), manifest(app))?;
        writeln!(resources, "- app{app}.yaml")?;
        writeln!(generators, "- name: app{app}\n  literals: [a={app}, b=two]")?;
        if app % 5 == 0 {
            writeln!(
                patches,
                "- patch: |-\n    apiVersion: apps/v1\n    kind: Deployment\n    metadata: {{name: app{app}}}\n    spec: {{replicas: {}}}",
                app + 2
            )?;
        }
    }
    std::fs::write(
        base.join("kustomization.yaml"),
        format!("resources:\n{resources}configMapGenerator:\n{generators}"),
    )?;
    let more = "namePrefix: big-\nnamespace: big\ncommonLabels: {team: red}\ncommonAnnotations: {owner: me}\n\
                images: [{name: nginx, newTag: '1.27'}]\nresources: [../base]\npatches:\n\
                - target: {kind: Deployment}\n  patch: |-\n    - {op: add, path: /spec/minReadySeconds, value: 5}\n";
    std::fs::write(overlay.join("kustomization.yaml"), format!("{more}{patches}"))?;
    Ok(())
}

fn manifest(app: usize) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: app{app}}}
spec:
  selector: {{matchLabels: {{app: app{app}}}}}
  template:
    metadata: {{labels: {{app: app{app}}}}}
    spec:
      serviceAccountName: app{app}
      containers:
      - name: main
        image: nginx:1.25
        ports: [{{containerPort: 80}}]
        envFrom: [{{configMapRef: {{name: app{app}}}}}]
        env:
        - {{name: A, value: \"1\"}}
        - {{name: B, valueFrom: {{configMapKeyRef: {{name: app{app}, key: b}}}}}}
        volumeMounts: [{{name: c, mountPath: /c}}]
      volumes:
      - {{name: c, configMap: {{name: app{app}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: app{app}}}
spec:
  selector: {{app: app{app}}}
  ports: [{{port: 80}}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: app{app}}}
"
    )
}
