//! The routes of the Docker API that Portainer is a proxy of, without their version.

use crate::event::view::{Category, Privilege};

use super::Route;
use Category::{Administrative, Authentication, Configuration, Deployment};

const fn row(
    method: &'static str,
    path: &'static str,
    category: Category,
    kind: &'static str,
    action: &'static str,
) -> Route {
    Route::new(method, path, category, kind, action)
}

/// The table; `{name*}` stands for one or more words, as image names have them.
pub(super) const ROUTES: &[Route] = &[
    row("POST", "/auth", Authentication, "registry", "registry.login"),
    row("POST", "/build", Deployment, "image", "image.build"),
    row("POST", "/build/cancel", Deployment, "image", "image.build.cancel"),
    row("POST", "/build/prune", Deployment, "image", "image.cache.prune"),
    row("POST", "/commit", Deployment, "image", "image.commit"),
    row("POST", "/configs/create", Configuration, "config", "config.create"),
    row("DELETE", "/configs/{id}", Configuration, "config", "config.delete"),
    row("POST", "/configs/{id}/update", Configuration, "config", "config.update"),
    row("POST", "/containers/create", Deployment, "container", "container.create"),
    row("POST", "/containers/prune", Deployment, "container", "container.prune"),
    row("DELETE", "/containers/{id}", Deployment, "container", "container.delete"),
    row("PUT", "/containers/{id}/archive", Deployment, "container", "container.file.put"),
    row("POST", "/containers/{id}/attach", Deployment, "container", "container.attach")
        .always(Privilege::Exec),
    row("GET", "/containers/{id}/attach/ws", Deployment, "container", "container.attach")
        .always(Privilege::Exec),
    row("POST", "/containers/{id}/copy", Deployment, "container", "container.file.read").reads(),
    row("POST", "/containers/{id}/exec", Deployment, "container", "container.exec")
        .always(Privilege::Exec),
    row("POST", "/containers/{id}/kill", Deployment, "container", "container.kill"),
    row("POST", "/containers/{id}/pause", Deployment, "container", "container.pause"),
    row("POST", "/containers/{id}/rename", Deployment, "container", "container.rename"),
    row("POST", "/containers/{id}/resize", Deployment, "container", "container.resize"),
    row("POST", "/containers/{id}/restart", Deployment, "container", "container.restart"),
    row("POST", "/containers/{id}/start", Deployment, "container", "container.start"),
    row("POST", "/containers/{id}/stop", Deployment, "container", "container.stop"),
    row("POST", "/containers/{id}/unpause", Deployment, "container", "container.unpause"),
    row("POST", "/containers/{id}/update", Deployment, "container", "container.update"),
    row("POST", "/containers/{id}/wait", Deployment, "container", "container.wait").reads(),
    row("POST", "/exec/{id}/resize", Deployment, "container", "container.exec")
        .always(Privilege::Exec),
    row("POST", "/exec/{id}/start", Deployment, "container", "container.exec")
        .always(Privilege::Exec),
    row("POST", "/grpc", Deployment, "image", "image.build"),
    row("POST", "/images/create", Deployment, "image", "image.pull"),
    row("POST", "/images/load", Deployment, "image", "image.load"),
    row("POST", "/images/prune", Deployment, "image", "image.prune"),
    row("DELETE", "/images/{name*}", Deployment, "image", "image.delete"),
    row("POST", "/images/{name*}/push", Deployment, "image", "image.push"),
    row("POST", "/images/{name*}/tag", Deployment, "image", "image.tag"),
    row("POST", "/networks/create", Deployment, "network", "network.create"),
    row("POST", "/networks/prune", Deployment, "network", "network.prune"),
    row("DELETE", "/networks/{id}", Deployment, "network", "network.delete"),
    row("POST", "/networks/{id}/connect", Deployment, "network", "network.connect"),
    row("POST", "/networks/{id}/disconnect", Deployment, "network", "network.disconnect"),
    row("DELETE", "/nodes/{id}", Administrative, "node", "node.delete"),
    row("POST", "/nodes/{id}/update", Administrative, "node", "node.update"),
    row("POST", "/plugins/create", Configuration, "plugin", "plugin.create"),
    row("POST", "/plugins/pull", Configuration, "plugin", "plugin.install"),
    row("DELETE", "/plugins/{name*}", Configuration, "plugin", "plugin.delete"),
    row("POST", "/plugins/{name*}/disable", Configuration, "plugin", "plugin.disable"),
    row("POST", "/plugins/{name*}/enable", Configuration, "plugin", "plugin.enable"),
    row("POST", "/plugins/{name*}/push", Configuration, "plugin", "plugin.push"),
    row("POST", "/plugins/{name*}/set", Configuration, "plugin", "plugin.update"),
    row("POST", "/plugins/{name*}/upgrade", Configuration, "plugin", "plugin.update"),
    row("POST", "/secrets/create", Configuration, "secret", "secret.create"),
    row("DELETE", "/secrets/{id}", Configuration, "secret", "secret.delete")
        .always(Privilege::SecretDeletion),
    row("POST", "/secrets/{id}/update", Configuration, "secret", "secret.update"),
    row("POST", "/services/create", Deployment, "service", "service.create"),
    row("DELETE", "/services/{id}", Deployment, "service", "service.delete"),
    row("POST", "/services/{id}/update", Deployment, "service", "service.update"),
    row("POST", "/session", Deployment, "image", "image.build"),
    row("POST", "/swarm/init", Administrative, "swarm", "swarm.create"),
    row("POST", "/swarm/join", Administrative, "swarm", "swarm.join"),
    row("POST", "/swarm/leave", Administrative, "swarm", "swarm.leave"),
    row("POST", "/swarm/unlock", Administrative, "swarm", "swarm.unlock"),
    row("POST", "/swarm/update", Administrative, "swarm", "swarm.update"),
    row("DELETE", "/v2/browse/delete", Deployment, "volume", "volume.file.delete"),
    row("POST", "/v2/browse/put", Deployment, "volume", "volume.file.put"),
    row("PUT", "/v2/browse/rename", Deployment, "volume", "volume.file.rename"),
    row("POST", "/volumes/create", Deployment, "volume", "volume.create"),
    row("POST", "/volumes/prune", Deployment, "volume", "volume.prune"),
    row("DELETE", "/volumes/{name}", Deployment, "volume", "volume.delete"),
    row("PUT", "/volumes/{name}", Deployment, "volume", "volume.update"),
];
