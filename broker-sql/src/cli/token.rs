//! `token create | list | revoke`.

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;

use crate::cli::Context;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::output::{moment, moment_or_dash, table};
use crate::operator::tokens::{self, Issue, Reach};
use crate::portal::api_token::ApiToken;
use crate::portal::clusters;

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token of the HTTP API and print it, this once.
    Create(Create),
    /// List tokens, without their secrets.
    List,
    /// Revoke a token: it ends at once, what it streams within seconds.
    Revoke {
        /// Name or id.
        token: String,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("reach").required(true).multiple(true).args(["all", "cluster", "user"])))]
pub struct Create {
    /// Letters, digits, space, dot, dash, underscore; at most 63 characters.
    pub name: String,
    /// What it may do; may be repeated.
    #[arg(long, required = true, value_parser = ["read", "logs", "submit", "cancel", "approve"])]
    pub scope: Vec<String>,
    /// It sees every cluster.
    #[arg(long, conflicts_with = "cluster")]
    pub all: bool,
    /// It sees this cluster, by name or id; may be repeated.
    #[arg(long)]
    pub cluster: Vec<String>,
    /// Its holder is this user of the portal: what it submits is theirs. Alone, it sees what is theirs.
    #[arg(long, value_name = "USER_ID")]
    pub user: Option<String>,
    /// How long it holds, as in '90 days'; without this it does not expire.
    #[arg(long, value_name = "INTERVAL")]
    pub expires_in: Option<String>,
}

pub async fn token(context: &Context, command: Token) -> Result<Outcome, Failure> {
    match command {
        Token::Create(options) => create(context, options).await?,
        Token::List => list(context).await?,
        Token::Revoke { token } => {
            let id = tokens::revoke(&mut context.connect().await?, &token).await?;
            context.output.print(&json!({"id": id, "status": "revoked"}), || format!("token {token} is revoked"))?;
        }
    }
    Ok(Outcome::Done)
}

async fn create(context: &Context, options: Create) -> Result<(), Failure> {
    let connection = &mut context.connect().await?;
    let mut ids = Vec::new();
    for name in &options.cluster {
        ids.push(clusters::find(connection, name).await?);
    }
    let reach = match (options.all, ids.is_empty()) {
        (true, _) => Reach::All,
        (false, true) => Reach::Own,
        (false, false) => Reach::Clusters(ids),
    };
    let token = ApiToken::generate().map_err(|error| Failure::Machine(format!("no random bytes: {error}")))?;
    let issue = Issue {
        name: options.name.clone(),
        hash: token.hash(),
        scopes: options.scope,
        reach,
        user_id: options.user,
        expires_in: options.expires_in,
    };
    let id = tokens::create(connection, &issue).await?;
    let object = json!({"id": id, "name": options.name, "token": token.reveal()});
    context.output.remark("the token is shown this once, and stored nowhere:");
    Ok(context.output.print(&object, || token.reveal().to_owned())?)
}

async fn list(context: &Context) -> Result<(), Failure> {
    let tokens = tokens::list(&mut context.connect().await?).await?;
    let rows = || -> Vec<Vec<String>> {
        let row = |t: &tokens::Token| {
            let sees = match t.reach.as_str() {
                "clusters" => t.clusters.join(", "),
                reach => reach.to_owned(),
            };
            let user = t.user_id.clone().unwrap_or_else(|| "-".into());
            let (expires, used) = (moment_or_dash(t.expires_at), moment_or_dash(t.last_used_at));
            vec![t.name.clone(), t.status.clone(), t.scopes.join(","), sees, user, moment(t.created_at), expires, used]
        };
        tokens.iter().map(row).collect()
    };
    let heads = ["NAME", "STATUS", "SCOPES", "SEES", "USER", "SINCE", "EXPIRES", "USED"];
    Ok(context.output.print(&tokens, || match tokens.is_empty() {
        true => "no tokens; `tendril-broker token create NAME --scope read --all` makes one".into(),
        false => table(&heads, &rows()),
    })?)
}
