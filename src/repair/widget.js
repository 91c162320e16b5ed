// Opens Belvo's widget on this page, and reports its end to relink by the same addresses that the hosted widget calls.
(() => {
  "use strict";
  const { token, locale, success, exit, event } = document.getElementById("belvo").dataset;
  const go = (address, values) => {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(values)) if (value) query.set(name, value);
    location.replace(`${address}?${query}`);
  };
  const start = () => {
    window.belvoSDK.createWidget(token, {
      locale,
      callback: () => go(success, {}),
      onExit: (data) => go(exit, {
        last_encountered_error_code: data?.last_encountered_error?.code,
        meta_data_step: data?.meta_data?.step,
      }),
      onEvent: (data) => {
        if (data?.eventName === "ERROR") fetch(`${event}?error=${encodeURIComponent(data?.meta_data?.error_code || "")}`);
      },
    }).build();
  };
  if (window.belvoSDK) start();
  else document.getElementById("belvo-script").addEventListener("load", start);
})();
