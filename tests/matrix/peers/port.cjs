// Preloaded into a node server: says which port the system gave it.
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  this.once("listening", () => console.error("PORT " + this.address().port));
  return listen.apply(this, args);
};
