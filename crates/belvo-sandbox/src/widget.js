// A stand-in for Belvo's JavaScript widget: the page of the stand-in in a frame, and the documented callbacks.
window.belvoSDK = (() => {
  const origin = new URL(document.currentScript.src).origin;
  const createWidget = (token, { locale, callback, onExit, onEvent } = {}) => ({
    build() {
      const frame = document.createElement("iframe");
      frame.title = "Belvo";
      frame.src = `${origin}/widget/?access_token=${encodeURIComponent(token)}&locale=${locale || ""}`;
      frame.style.cssText = "width: 100%; height: 34rem; border: 0";
      document.getElementById("belvo").append(frame);
      addEventListener("message", (message) => {
        if (message.origin !== origin || message.source !== frame.contentWindow) return;
        const { belvo_sandbox: outcome, callback: data } = message.data;
        if (outcome === "success") callback?.(data.link, data.institution);
        else if (outcome === "exit") onExit?.(data);
        else if (outcome === "wrong_password") onEvent?.(data);
        else onEvent?.({ eventName: "ERROR", meta_data: { error_code: data.error, error_message: data.error_message } });
      });
    },
  });
  return { createWidget };
})();
