//! Makes many agents known as fast as possible, so that a collector that knows a
//! million of them can be measured: pipelined heartbeats on a few connections.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use super::Options;
use super::agents::id;
use super::answer::parse;
use super::client::Server;

/// How many connections are used, so that all event loops have something to do.
const CONNECTIONS: usize = 8;
/// How many requests are written at once. The answers to them fit into the buffers
/// of the kernel.
const BATCH: usize = 64;

/// Makes `count` agents known.
pub fn fill(options: &Options, count: usize) -> Result<(), String> {
    let server = Server::find(&options.collector)?;
    let started = Instant::now();
    let connect = |_| TcpStream::connect(server.address).map_err(|error| format!("{}: {error}", server.host));
    let mut streams = (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>, _>>()?;
    let mut next = 0;
    while next < count {
        let mut asked = Vec::new();
        for stream in &mut streams {
            let numbers = next..count.min(next + BATCH);
            next = numbers.end;
            asked.push(numbers.len());
            let requests = numbers.flat_map(|number| {
                let body =
                    format!(r#"{{"mode":"SLEEP","uptime_seconds":3600.5,"agent_name":"swarm-{number}"}}"#);
                server.request("POST", &id(options.seed, number), &body, false)
            });
            stream.write_all(&requests.collect::<Vec<_>>()).map_err(|error| error.to_string())?;
        }
        for (stream, asked) in streams.iter_mut().zip(asked) {
            take_answers(stream, asked)?;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{count} agents are known, after {seconds:.1} s: {:.0} heartbeats a second",
        count as f64 / seconds
    );
    Ok(())
}

fn take_answers(stream: &mut TcpStream, mut asked: usize) -> Result<(), String> {
    let (mut answers, mut piece) = (Vec::new(), [0; 16 * 1024]);
    while asked > 0 {
        let count = stream.read(&mut piece).map_err(|error| error.to_string())?;
        if count == 0 {
            return Err("the collector closed the connection".to_owned());
        }
        answers.extend_from_slice(&piece[..count]);
        let mut taken = 0;
        while let Some(answer) = parse(&answers[taken..])? {
            if answer.status != 200 {
                return Err(format!("answer {}; is COLLECTOR_MAX_AGENTS large enough?", answer.status));
            }
            taken += answer.length;
            asked -= 1;
        }
        answers.drain(..taken);
    }
    Ok(())
}
