import { byId } from "./dom.js";
import { copyButton } from "./markdown.js";

/** Where the code is: from the package's manifest, put in by the build; empty where that does not say. */
declare const __CODE__: string;

/** The sample for developers can be copied, and the code is linked where its address is known. */
const sample = byId("sample", HTMLElement);
const copy = copyButton("Copy", () => sample.querySelector("pre")!.textContent ?? "");
copy.setAttribute("aria-label", "Copy the sample");
sample.querySelector(".code-head")!.append(copy);

if (__CODE__) Object.assign(byId("code-link", HTMLAnchorElement), { href: __CODE__, hidden: false });
