//! FastAPI with sse-starlette under uvicorn, and a Redis of its own (see `bench/rivals/fastapi`).

use std::path::PathBuf;

use super::{Server, StartError, programs};

const APP: &str = include_str!("../../rivals/fastapi/app.py");
/// Where `scripts/rivals` installs Python and its packages.
const PYTHON: &str = "target/rivals/venv/bin/python";

impl Server {
    /// Starts Redis and two workers.
    pub(super) fn fastapi(&mut self) -> Result<(), StartError> {
        let python = python()?;
        let redis = self.redis()?;
        let app = self.dir().join("app.py");
        std::fs::write(&app, APP).map_err(|error| format!("{}: {error}", app.display()))?;
        let (dir, port) = (self.dir().display().to_string(), self.addr.port().to_string());
        let args = [
            "-m",
            "uvicorn",
            "app:app",
            "--app-dir",
            &dir,
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--workers",
            "2",
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--no-access-log",
        ];
        let variables = [("REDIS_URL".to_owned(), format!("redis://{redis}"))];
        self.run(&python, &args.map(str::to_owned), &variables, self.addr)?;
        self.opens()
    }
}

/// The versions of the packages and of Python.
pub fn version() -> Result<String, StartError> {
    let script = "from importlib.metadata import version as v; import sys; \
                  print(', '.join(f'{n} {v(n)}' for n in \
                  ('fastapi', 'sse-starlette', 'uvicorn', 'redis')), 'on Python', sys.version.split()[0])";
    programs::says(&python()?, &["-c", script])
}

fn python() -> Result<PathBuf, StartError> {
    // Symbolic links are not resolved, because Python finds its packages by the location of the
    // link.
    let path = std::path::absolute(PYTHON).unwrap_or_else(|_| PYTHON.into());
    let missing = || StartError::Unavailable(format!("no {PYTHON}; scripts/rivals makes it"));
    path.is_file().then_some(path).ok_or_else(missing)
}
