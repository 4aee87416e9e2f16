//! What is known before anything is paid for: whose accounts the connections are, and their states.

use crate::{
    app::World,
    config::{Config, ConnectionConfig, collide},
    cycle::ClaimWatch,
    dedup::{ConnectionState, Ledger},
    event::EventFactory,
    exit::{Exit, report},
    poller::{CostExplorer, FetchError, FetchErrorKind, http_client},
    transport::{Transport, TransportError},
};

/// One connection's part.
pub(super) struct Job {
    pub(super) connection: ConnectionConfig,
    pub(super) aws: CostExplorer,
    pub(super) factory: EventFactory,
    /// Empty, or what the transport had to read for the state's sake.
    pub(super) ledger: Ledger,
    pub(super) watch: ClaimWatch,
    pub(super) state: ConnectionState,
}

/// Whose accounts these are, and what their states say: free, and everything that is wrong at once.
pub(super) async fn prepare<T: Transport>(
    config: &Config,
    transport: &T,
    world: &World,
    connections: &[ConnectionConfig],
) -> Result<(Vec<Job>, Vec<ConnectionState>), Exit> {
    let http = http_client();
    let mut known: Vec<(String, CostExplorer, &ConnectionConfig)> = Vec::new();
    let (mut worst, mut unreachable) = (Exit::Done, 0);
    for connection in connections {
        let asked = async {
            let aws = CostExplorer::connect(connection, &http, world.clock.clone()).await?;
            let account = aws.account_id().await?;
            Ok::<_, FetchError>((account, aws))
        };
        match asked.await {
            Ok((account, aws)) => {
                let rival = known.iter().find(|(of, _, other)| *of == account && collide(other, connection));
                if let Some((_, _, other)) = rival {
                    let message = format!(
                        "the connections `{}` and `{}` both belong to account {account} and would write the same keys",
                        other.name, connection.name
                    );
                    report(&message, Some("remove one of them, or choose one with `--connection`"));
                    worst = worst.max(Exit::Config);
                }
                known.push((account, aws, connection));
            }
            Err(error) => {
                report(&error, error.hint.as_deref());
                unreachable += usize::from(error.kind == FetchErrorKind::Unavailable);
                worst = worst.max(Exit::Failed);
            }
        }
    }
    if unreachable == connections.len() {
        worst = worst.max(Exit::Unavailable);
    }
    if worst != Exit::Done {
        return Err(worst);
    }
    let read = async {
        let mut jobs = Vec::new();
        for (account, aws, connection) in known {
            let scope = connection.scope(&config.source.source, &account);
            let factory = EventFactory::new(scope, &config.source.type_prefix);
            let mut ledger = Ledger::new();
            let id = factory.scope().id();
            let state = match transport.peek(&id).await? {
                Some(state) => state,
                None => transport.recover(&id, &mut ledger).await?,
            };
            let connection = connection.clone();
            jobs.push(Job { connection, aws, factory, ledger, watch: ClaimWatch::new(), state });
        }
        let states = transport.connections().await?.into_iter().map(|(_, state)| state).collect();
        Ok::<_, TransportError>((jobs, states))
    };
    read.await.map_err(|error| {
        report(&error, error.hint.as_deref());
        Exit::from(&error)
    })
}
