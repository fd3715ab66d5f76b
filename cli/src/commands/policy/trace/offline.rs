//! Tracing rules that stand in files: ends are known by labels, addresses and names alone, and requests can be asked
//! about as well.

use super::super::document::{Faulty, Files};
use crate::failure::Failure;
use policy::fqdn::Outside;
use policy::l7::{HttpRequest, KafkaRequest, Name, Request, api_key};
use policy::trace::{Answer, Dport, Question, Setting, Side, parse_labels, trace_between};
use policy::{Enforcement, Options, Repository};
use std::net::IpAddr;
use std::path::PathBuf;

const HEADING: &str = "Rules in files";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
#[group(skip)]
pub struct Args {
    /// Trace the rules of these files and folders, without an agent
    #[arg(long, value_name = "PATH", num_args = 1..)]
    policy: Vec<PathBuf>,
    /// When policy is enforced: default, always or never
    #[arg(long, value_name = "MODE", default_value = "default", requires = "policy")]
    enforcement: Enforcement,
    /// Address outside that is a source
    #[arg(long, value_name = "ADDRESS", requires = "policy")]
    src_address: Option<IpAddr>,
    /// Address outside that is a destination
    #[arg(long, value_name = "ADDRESS", requires = "policy")]
    dst_address: Option<IpAddr>,
    /// Name outside that is a destination, as if its address (--dst-address, or any) had been learnt for it
    #[arg(long, value_name = "NAME", requires = "policy")]
    dst_name: Option<String>,
    /// HTTP request to ask about
    #[arg(long, value_name = "METHOD PATH", requires = "policy", group = "request", value_parser = method_and_path)]
    http: Option<(String, String)>,
    /// Host of the HTTP request
    #[arg(long, value_name = "HOST", requires = "http")]
    http_host: Option<String>,
    /// Header of the HTTP request
    #[arg(long, value_name = "NAME: VALUE", requires = "http", value_parser = header)]
    http_header: Vec<(String, String)>,
    /// Name to ask a DNS server for
    #[arg(long, value_name = "NAME", requires = "policy", group = "request")]
    dns: Option<String>,
    /// Kind of a Kafka request to ask about
    #[arg(long, value_name = "APIKEY", requires = "policy", group = "request", value_parser = kafka_key)]
    kafka: Option<i16>,
    /// Topics of the Kafka request
    #[arg(long, value_name = "TOPIC", requires = "kafka", value_delimiter = ',')]
    kafka_topic: Vec<String>,
    /// Client of the Kafka request
    #[arg(long, value_name = "CLIENT", requires = "kafka")]
    kafka_client: Option<String>,
    /// Server name in the TLS hello
    #[arg(long, value_name = "NAME", requires = "policy")]
    sni: Option<String>,
}

impl Args {
    pub fn is_given(&self) -> bool {
        !self.policy.is_empty()
    }

    fn request(&self) -> Option<Request<'_>> {
        let server_name = self.sni.as_deref().map(Name::new);
        if let Some((method, path)) = &self.http {
            let host = self.http_host.as_deref().unwrap_or_default();
            let request = HttpRequest { method, path, host, headers: &self.http_header };
            return Some(Request::Http { request, server_name });
        }
        if let Some(name) = &self.dns {
            return Some(Request::Dns(Name::new(name)));
        }
        if let Some(api_key) = self.kafka {
            let client_id = self.kafka_client.as_deref().unwrap_or_default();
            return Some(Request::Kafka(KafkaRequest {
                api_key,
                api_version: 0,
                client_id,
                topics: &self.kafka_topic,
            }));
        }
        server_name.map(Request::Hello)
    }
}

/// One answer for each source and destination.
pub fn answers(args: &super::Args) -> Result<Vec<Answer>, Failure> {
    let offline = &args.offline;
    let asks_agent = !args.src_identity.is_empty()
        || !args.dst_identity.is_empty()
        || !args.src_endpoint.is_empty()
        || !args.dst_endpoint.is_empty();
    if asks_agent {
        return Err(Failure::Usage("identities and endpoints are known to an agent only: give labels".to_owned()));
    }
    let list = Files::new(offline.policy.clone()).read(|Faulty { names, faults }| Failure::Policy {
        title: format!("Cannot parse policy {}:", names.join(", ")),
        faults,
    })?;
    let mut repository = Repository::new();
    repository.add(list.rules);
    let outside = Outside::new(&repository);
    let labels = |texts: &[String]| {
        parse_labels(texts.iter().map(String::as_str)).map_err(|error| Failure::Usage(error.to_string()))
    };
    let (mut sources, mut destinations) = (Vec::new(), Vec::new());
    for (texts, ends) in [(&args.src, &mut sources), (&args.dst, &mut destinations)] {
        if !texts.is_empty() {
            ends.push(labels(texts)?);
        }
    }
    sources.extend(offline.src_address.map(|address| outside.labels(address, [])));
    let name = offline.dst_name.as_deref().map(Name::new);
    let any = name.as_ref().map(|_| IpAddr::from([0, 0, 0, 0]));
    destinations.extend(offline.dst_address.or(any).map(|address| outside.labels(address, &name)));
    let dports: Result<Vec<Dport>, _> = args.dport.iter().map(|text| text.parse()).collect();
    let dports = dports.map_err(|error: policy::trace::DportError| Failure::Usage(error.to_string()))?;
    let setting = Setting::new(&repository, Options { enforcement: offline.enforcement, ..Options::default() });
    let request = offline.request();
    let mut answers = Vec::new();
    for from in &sources {
        for to in &destinations {
            let question = Question { from, to, dports: &dports, request: request.as_ref(), verbose: args.verbose };
            answers.push(trace_between(setting, &Side::from_labels(from), &Side::from_labels(to), question));
        }
    }
    Ok(answers)
}

fn method_and_path(text: &str) -> Result<(String, String), String> {
    let (method, path) = text.split_once(' ').ok_or("the form is 'METHOD PATH', such as 'GET /public'")?;
    Ok((method.to_owned(), path.to_owned()))
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("the form is 'NAME: VALUE'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn kafka_key(text: &str) -> Result<i16, String> {
    api_key(text).or_else(|| text.parse().ok()).ok_or_else(|| format!("there is no kind of request {text}"))
}
