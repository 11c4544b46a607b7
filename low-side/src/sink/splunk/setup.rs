//! What Splunk needs before it takes records, as text: an agent beside the SIEM has no rights over it.

use super::config::SplunkConfig;

/// What stands in which file on Splunk's side, and the way of the token.
pub(in crate::sink) fn setup(config: &SplunkConfig, name: &str) -> String {
    let SplunkConfig { index, ack, token_file, http, .. } = config;
    let use_ack = u8::from(*ack);
    let poll = if *ack {
        "Behind a load balancer, sessions must stick: acknowledgements are asked for over the same\n\
         channel, and only the collector that gave them knows them.\n"
    } else {
        "Without acknowledgement a 200 says that a collector has the records in memory: what it has\n\
         not written when it dies is lost, and nobody sees it.\n"
    };
    format!(
        "# nothing is changed from here; on the Splunk side:\n\
         \n\
         # indexes.conf, on the indexers\n\
         [{index}]\n\
         homePath = $SPLUNK_DB/{index}/db\n\
         coldPath = $SPLUNK_DB/{index}/colddb\n\
         thawedPath = $SPLUNK_DB/{index}/thaweddb\n\
         \n\
         # inputs.conf, where the collector runs\n\
         [http]\n\
         disabled = 0\n\
         enableSSL = 1\n\
         \n\
         [http://penstock-{name}]\n\
         disabled = 0\n\
         token = <a GUID: uuidgen>\n\
         index = {index}\n\
         indexes = {index}\n\
         useACK = {use_ack}\n\
         \n\
         # props.conf, on indexers and search heads\n\
         {PROPS}\
         \n\
         # the token, here: one line, readable for the agent alone\n\
         (umask 077; cat > {token})   # then its owner: chown penstock: {token}\n\
         \n\
         # then\n\
         curl {http_url}/services/collector/health   # says: HEC is healthy\n\
         penstock-low check {name}\n\
         \n\
         {poll}",
        token = token_file.display(),
        http_url = http.url,
    )
}

/// The collector's objects carry their time and their fields: nothing is looked for in the event's
/// text, and nothing of it is cut off. `record_id` is indexed already.
const PROPS: &str = "\
[portainer:audit]\nKV_MODE = json\nTRUNCATE = 0\nSHOULD_LINEMERGE = false\n\
[kube:audit]\nKV_MODE = json\nTRUNCATE = 0\nSHOULD_LINEMERGE = false\n\
[falco:alert]\nKV_MODE = json\nTRUNCATE = 0\nSHOULD_LINEMERGE = false\n\
[penstock:other]\nKV_MODE = json\nTRUNCATE = 0\nSHOULD_LINEMERGE = false\n\
\n# fields.conf, on search heads\n[record_id]\nINDEXED = true\n";
